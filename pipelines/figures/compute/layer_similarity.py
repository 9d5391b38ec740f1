"""The similarity along the layers of a store's backbones; no run is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mettle_cache.layers import MODALITIES
from mettle_cache.pipelines.analysis.layer_similarity import layer_similarity
from mettle_cache.pipelines.figures.layer_similarity import LayerSimilarity
from mettle_cache.pipelines.progress import Progress

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource

CLIPS = 8


def store_similarities(store: TokenSource, progress: Progress, *, clips: int = CLIPS) -> list[LayerSimilarity]:
    """One line for each modality that has layers to compare, over all tokens of clips that lie evenly over the store.

    Raises
    ------
    UsageError
        No layer has its input in the store.
    """
    report = layer_similarity(store, clips=clips, progress=progress)
    lines = []
    for modality in MODALITIES:
        names = tuple(row.layer.split("/")[1] for row in report.layers if row.layer.startswith(f"{modality}/"))
        if names and np.isfinite(numbers := report.array(modality)).any():
            mean, _, low, high = numbers.T
            lines.append(LayerSimilarity(label=modality, layers=names, mean=mean, low=low, high=high))
    return lines
