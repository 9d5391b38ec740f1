"""``samples-SPLIT.parquet`` in a run's folder: what each sample scored alone, for intervals of differences of heads.

One row a sample, in the order of the split: ``row``, its position in the store's samples, ``clip``, and a column for
each score that is a mean over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mettle_cache.errors import RunError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.train.run_folder import RunFolder

FORMAT = "mettle-samples-1"
_OTHERS = ("row", "clip")


@dataclass(frozen=True)
class SampleScores:
    """``rows`` and ``clips`` of R samples, and their scores ``[R]`` by name."""

    rows: tuple[int, ...]
    clips: tuple[str, ...]
    terms: Mapping[str, NDArray[np.float64]]


def sample_scores_file(folder: Path, split: str) -> Path:
    """Where a run keeps them."""
    return folder / f"samples-{split}.parquet"


def sample_scores_table(
    rows: Sequence[int], clips: Sequence[str], terms: Mapping[str, NDArray[np.float64]]
) -> pa.Table:
    """The file's content."""
    columns = {"row": pa.array(rows, pa.int64()), "clip": pa.array(clips, pa.string())}
    table = pa.table(columns | {name: pa.array(values, pa.float64()) for name, values in terms.items()})
    return table.replace_schema_metadata({"format": FORMAT})


def read_sample_scores(folder: RunFolder, split: str) -> SampleScores | None:
    """What evaluation left in a run; None where it was evaluated by a version that left none.

    Raises
    ------
    RunError
        The file is damaged, or of another version.
    """
    place = sample_scores_file(folder.path, split)
    if not folder.has(place):
        return None
    try:
        table = pq.read_table(folder.check(place))
        written = (table.schema.metadata or {}).get(b"format", b"none").decode("utf-8", "replace")
        if written != FORMAT:
            raise ValueError(f"its format is {written}")
        terms = {name: table[name].to_numpy() for name in table.column_names if name not in _OTHERS}
        return SampleScores(tuple(table["row"].to_pylist()), tuple(table["clip"].to_pylist()), terms)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RunError(
            f"{place}: not samples' scores that this version reads ({error})",
            hint=f"write them again: {command_line('mettle evaluate', folder.path)}",
        ) from error


def spread_over_ranks(scores: NDArray[np.float64], count: int) -> list[int]:
    """Places of at most ``count`` of R samples from the best to the worst, evenly over the ranks of ``scores [R]``.

    Equal ones rank as they are annotated.
    """
    ranked = sorted(range(len(scores)), key=lambda place: -scores[place])
    ranks = sorted({round(rank * (len(ranked) - 1) / max(count - 1, 1)) for rank in range(count)})
    return [ranked[rank] for rank in ranks]
