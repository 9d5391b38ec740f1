"""How alike the tokens are that are distilled from different layers (MoLT, Figure 5 a)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOUR_MAP, new_figure, shorten, styled

_COLUMNS = 2
_MM_A_ROW = 42.0
_LEGEND_MM = 11.0
_MOST_TICKS = 9


@dataclass(frozen=True, kw_only=True)
class CosineMap:
    """``cosines [K, K]`` of K tokens that ``names [K]`` tell apart, the layers that they are of."""

    title: str
    names: tuple[str, ...]
    cosines: NDArray[np.float64]


@styled
def draw_cosine_maps(maps: Sequence[CosineMap]) -> Figure:
    """One matrix a panel, all on one colour scale from the lowest cosine of any to 1."""
    rows = -(-len(maps) // _COLUMNS)
    figure = new_figure(rows * _MM_A_ROW + _LEGEND_MM)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    lowest = min(0.0, *(float(np.nanmin(one.cosines)) for one in maps))
    for axis, one in zip(axes, maps, strict=False):
        drawn = axis.imshow(one.cosines, vmin=lowest, vmax=1, cmap=COLOUR_MAP, interpolation="nearest")
        ticks = np.arange(0, len(one.names), -(-len(one.names) // _MOST_TICKS))
        names = [one.names[tick] for tick in ticks]
        axis.set_xticks(ticks, names, rotation=90)
        axis.set_yticks(ticks, names)
        axis.set_title(shorten(one.title, 22))
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    figure.supxlabel("layer of the token", fontsize="medium")
    figure.supylabel("layer of the token", fontsize="medium")
    figure.colorbar(drawn, ax=list(axes), location="top", aspect=40, shrink=0.9, label="cosine similarity (mean)")
    return figure
