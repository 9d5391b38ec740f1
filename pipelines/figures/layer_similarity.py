"""How alike a layer's input and output are, along the depth of a backbone (MoLT, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, MARKERS, PALE, new_figure, styled

_HEIGHT_MM = 52.0
_APART = 0.25


@dataclass(frozen=True, kw_only=True)
class LayerSimilarity:
    """Cosines of the tokens before and after each layer of one backbone.

    ``layers [L]`` are names; ``mean``, ``low`` and ``high`` ``[L]`` are over tokens, low and high their 10th and 90th
    percentile. NaN where a layer's input is not stored, as that of the first of a stage is not.
    """

    label: str
    layers: tuple[str, ...]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@styled
def draw_layer_similarity(backbones: Sequence[LayerSimilarity]) -> Figure:
    """One line a backbone with bars from the 10th to the 90th percentile; lines end where an input is not stored."""
    figure = new_figure(_HEIGHT_MM)
    axis = figure.subplots()
    lowest = 0.0
    for place, one in enumerate(backbones):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        # side by side, so that the bars of one layer can be told
        depth = np.arange(1, len(one.layers) + 1) + _APART * (place - (len(backbones) - 1) / 2)
        axis.vlines(depth, one.low, one.high, color=colour, linewidth=0.6)
        axis.plot(depth, one.mean, color=colour, marker=marker, markersize=2.5, label=one.label)
        lowest = min(lowest, float(np.nanmin(one.low, initial=0.0)))
    axis.axhline(1, color=PALE, linewidth=0.6, zorder=0)
    axis.set_ylim(lowest - 0.02, 1.05)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layer of the store, in the order of depth")
    axis.set_ylabel("cosine of input and output")
    figure.legend(loc="outside upper center", ncols=min(len(backbones), 3))
    return figure
