"""How alike each layer's input and output are: the cosine of every stored token before and after it (MoLT, Figure 4).

The paper takes early layers to be volatile by it, and reads late ones alone. A layer's input is stored where the block
before it in its stage is: the first block of a stage reads what a patch merging made, which is another grid and width
and no layer of a store.

Shapes: T segments, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.paths import command_line, local_path
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.store.reading.token_source import TokenSource
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import LayerTokens

# quantiles are read from counts, so that memory does not grow with the tokens: right to 0.0005
_BINS = 2000
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True, kw_only=True)
class LayerCosine:
    """The cosines of one layer's input and output, over all tokens of the clips that were read.

    ``mean``, ``std``, and the 10th and 90th percentile ``low`` and ``high``; all None where the input is not there to
    compare, and ``reason`` says why.
    """

    layer: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SimilarityReport:
    """The layers of a store in the order of depth, visual first; ``tokens`` counts those of a layer by its name."""

    store: Path
    codec: str
    clips: int
    layers: list[LayerCosine]
    tokens: Mapping[str, int]
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "store": str(self.store)}

    def array(self, modality: str) -> NDArray[np.float64]:
        """Mean, standard deviation, low and high of a modality's layers, ``[L, 4]``; NaN where there are none."""
        rows = [(row.mean, row.std, row.low, row.high) for row in self.layers if row.layer.startswith(f"{modality}/")]
        return np.array([[np.nan if value is None else value for value in row] for row in rows])


def layer_similarity(
    store: str | Path | TokenSource,
    *,
    clips: int | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> SimilarityReport:
    """Compare every layer of a store with the one before it, clip by clip.

    What is held is a few clips, and of these the floats of two layers, whatever the size of the store.

    Parameters
    ----------
    clips
        How many clips to read, which lie evenly over the store; None for all.

    Raises
    ------
    UsageError
        No layer has its input in the store, or there is no clip with tokens.
    StoreError
        There is no finished store at that path, or it is damaged.
    """
    opened = TokenStore.open(local_path(store)) if isinstance(store, str | Path) else store
    pairs = {layer.name: _input_of(layer, opened.layers) for layer in opened.layers}
    if not any(isinstance(before, LayerSpec) for before in pairs.values()):
        raise UsageError(
            f"{opened.path}: no two layers of one stage follow each other, so no layer's input is there",
            hint="extract with --layers all, or last:N, or whole stages such as visual/s3",
        )
    progress = progress or Silent()
    chosen = _choose_clips(opened, clips)
    counts = {name: _Cosines() for name, before in pairs.items() if isinstance(before, LayerSpec)}
    read = [layer.name for layer in opened.layers if layer.name in _read_names(pairs)]
    progress.start(len(chosen), "clips", "similarity")
    for batch in opened.batches([[clip] for clip in chosen], layers=read, threads=threads):
        _compare(batch.layers, pairs, counts)
        progress.advance(1, nbytes=batch.nbytes)
    progress.finish()
    return SimilarityReport(
        store=Path(opened.path),
        codec=opened.codec,
        clips=len(chosen),
        layers=[_row(name, before, counts.get(name)) for name, before in pairs.items()],
        tokens={name: int(each.count) for name, each in counts.items()},
        notes=_notes(opened),
    )


def _input_of(layer: LayerSpec, layers: Sequence[LayerSpec]) -> LayerSpec | str:
    """The layer whose output is this one's input, or why there is none."""
    earlier = [other for other in layers if other.array == layer.array and other.block < layer.block]
    if earlier and earlier[-1].block == layer.block - 1 and _alike(earlier[-1], layer):
        return earlier[-1]
    if layer.block > 1:
        return f"the block before it, {layer.array}b{layer.block - 1:02d}, is not stored"
    if layer.stage > 1:
        return "its input comes from a patch merging, of another grid and width"
    return "its input is the patch embedding, which is not stored" if layer.block == 1 else "it is the patch embedding"


def _alike(before: LayerSpec, after: LayerSpec) -> bool:
    return (before.grid, before.tokens, before.width) == (after.grid, after.tokens, after.width)


def _choose_clips(store: TokenSource, clips: int | None) -> list[int]:
    """Places on the clip axis, evenly spread over the clips that have tokens."""
    whole = [number for number, clip in enumerate(store.clips) if clip not in store.failed]
    if not whole or (clips is not None and clips < 1):
        see = command_line("mettle info", str(store.path))
        raise UsageError(f"{store.path}: there are no clips with tokens to read", hint=f"see: {see}")
    if clips is None or clips >= len(whole):
        return whole
    return [whole[place] for place in np.linspace(0, len(whole) - 1, clips).round().astype(int)]


def _read_names(pairs: Mapping[str, LayerSpec | str]) -> set[str]:
    compared = {name for name, before in pairs.items() if isinstance(before, LayerSpec)}
    return compared | {before.name for before in pairs.values() if isinstance(before, LayerSpec)}


class _Cosines:
    """A running count, sum, sum of squares and histogram."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.bins = np.zeros(_BINS, np.int64)

    def add(self, cosines: NDArray[np.float64]) -> None:
        self.count += cosines.size
        self.total += float(cosines.sum())
        self.squares += float(np.square(cosines).sum())
        self.bins += np.histogram(cosines, _BINS, (-1, 1))[0]

    def quantile(self, share: float) -> float:
        place = int(np.searchsorted(np.cumsum(self.bins), share * self.count))
        return float((place + 0.5) / _BINS * 2 - 1)


def _compare(
    tokens: Mapping[str, LayerTokens], pairs: Mapping[str, LayerSpec | str], counts: Mapping[str, _Cosines]
) -> None:
    """Add one clip; the layers come in the order of depth, so that each is decoded once."""
    held: tuple[str, torch.Tensor] = ("", torch.empty(0))
    for name, before in pairs.items():
        if not isinstance(before, LayerSpec):
            continue
        earlier = held[1] if held[0] == before.name else tokens[before.name].floats()
        held = (name, tokens[name].floats())
        cosines = functional.cosine_similarity(earlier, held[1], dim=-1)
        # rounding may leave a cosine just outside of the histogram
        counts[name].add(cosines.double().clamp(-1, 1).numpy())


def _row(name: str, before: LayerSpec | str, found: _Cosines | None) -> LayerCosine:
    if found is None or isinstance(before, str):
        return LayerCosine(layer=name, reason=str(before))
    mean = found.total / found.count
    variance = max(found.squares / found.count - mean**2, 0.0)
    return LayerCosine(layer=name, mean=mean, std=variance**0.5, low=found.quantile(_LOW), high=found.quantile(_HIGH))


def _notes(store: TokenSource) -> list[str]:
    """What else a reader has to know of these tokens."""
    backbones = store.key.get("extraction", {}).get("backbones", {})
    normed = [name for name, found in backbones.items() if found.get("final_norm")]
    lines = [f"{name}: the last layer is stored after the final norm, its input before it" for name in normed]
    return [*lines, *([] if store.codec == "float16" else [f"of tokens as {store.codec} keeps them"])]
