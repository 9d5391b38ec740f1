"""How much each layer's token counts in what they are fused into (MoLT, Figure 5 b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, GREY, new_figure, shorten, styled

_MM_A_ROW = 38.0
_MOST_TICKS = 24


@dataclass(frozen=True, kw_only=True)
class FusionWeights:
    """``weights [S, K]`` of K tokens in S segments, each row summing to 1; ``names [K]`` tell the tokens apart."""

    title: str
    names: tuple[str, ...]
    weights: NDArray[np.float64]


@styled
def draw_fusion_weights(fusions: Sequence[FusionWeights]) -> Figure:
    """One panel each: the mean weight of a token, its 10th to 90th percentile over segments, and equal shares."""
    figure = new_figure(len(fusions) * _MM_A_ROW + 4)
    axes = figure.subplots(len(fusions), 1, squeeze=False).ravel()
    for axis, one in zip(axes, fusions, strict=True):
        places, mean = np.arange(len(one.names)), one.weights.mean(axis=0)
        low, high = np.quantile(one.weights, (0.1, 0.9), axis=0)
        axis.bar(places, mean, color=COLOURS[0], width=0.7)
        axis.vlines(places, low, high, color="black", linewidth=0.7)
        axis.axhline(1 / len(one.names), color=GREY, linestyle="--", linewidth=0.7, label="equal shares")
        step = -(-len(one.names) // _MOST_TICKS)
        axis.set_xticks(places[::step], one.names[::step], rotation=90)
        axis.set_ylim(0, 1.1 * max(float(high.max()), float(mean.max()), 1 / len(one.names)))
        axis.set_title(shorten(one.title, 48), loc="left")
        axis.set_ylabel("weight (sums to 1)")
    axes[-1].set_xlabel("layer of the token")
    figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside upper right")
    return figure
