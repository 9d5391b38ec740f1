"""Half precision on a GPU: what autocast gains, and the error that it leaves in the stored tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mettle_cache.pipelines.benchmark.extraction import Extraction
from mettle_cache.pipelines.benchmark.table import Row, measured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Samples, Variant, time_interleaved
from mettle_cache.tokens import LayerTokens

HALF = ("bfloat16", "float16")


def precision_rows(exact: Extraction, *, repeats: int, progress: Progress, of: Row) -> list[Row]:
    """For each half precision: frames/s of the whole extraction beside ``of``, and the error of what it stores.

    The error is that of the decoded tokens from the float32 ones, so the codec's own is in it; float32's row is the
    codec's alone.
    """
    rows = [error_row("float32", exact, exact.tokens)]
    for precision in HALF:
        config = replace(exact.config, precision=precision)
        half = Extraction.set_up(config, exact.clips, exact.folder / precision)
        seconds = time_interleaved(
            [Variant("whole", half.whole, before=half.clear, after=half.clear)], repeats=repeats, progress=progress
        )
        rows.append(measured(f"whole extraction, {precision}", seconds["whole"].rate(half.segments), "frames/s", of=of))
        rows.append(error_row(precision, half, exact.tokens))
    return rows


def error_row(precision: str, extraction: Extraction, exact: Mapping[str, Tensor]) -> Row:
    """The worst layer's relative L2 error of one clip's stored tokens."""
    errors = relative_errors(extraction.codes, exact)
    worst = max(errors, key=lambda name: errors[name])
    typical = Samples(tuple(errors.values()))
    return Row(
        variant=f"error of the stored tokens, {precision}",
        value=errors[worst],
        unit="relative L2",
        low=typical.low,
        high=typical.high,
        note=f"the worst layer, {worst}; median of all layers {typical.median:.2g}",
    )


def relative_errors(stored: Mapping[str, LayerTokens], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """``|decoded - exact| / |exact|`` (L2) by layer."""
    errors: dict[str, float] = {}
    for name, tokens in stored.items():
        reference = exact[name].detach().float().cpu()
        errors[name] = float(
            torch.linalg.vector_norm(tokens.floats() - reference) / torch.linalg.vector_norm(reference)
        )
    return errors
