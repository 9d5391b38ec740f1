"""Where LCD's meta-tokens look: attention weights over the token grid of a frame, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOUR_MAP, COLUMN_MM, new_figure, no_picture, shorten, styled

_LEFT_MM, _LARGEST_MM = 4.0, 24.0
_LEGEND_MM = 13.0
_OPACITY = 0.72
_SHOWN = (0.005, 0.995)


@dataclass(frozen=True, kw_only=True)
class AttentionRow:
    """One frame: ``picture`` RGB ``[H, W, 3]`` or None, and one map of weights ``[rows, columns]`` for each layer.

    Weights are mean shares of a meta-token's heads; with those on class tokens they sum to 1.
    """

    title: str
    picture: NDArray[np.uint8] | None
    maps: tuple[NDArray[np.float64], ...]


@styled
def draw_attention_maps(rows: Sequence[AttentionRow], layers: Sequence[str]) -> Figure:
    """One row a frame, one column a layer, over the grey frame where there is one.

    Weights are shown as multiples of an even share, 1 / N, so that layers of different grids compare.
    """
    pictures = any(row.picture is not None for row in rows)
    names = [*(["frame"] if pictures else []), *layers]
    side = min((COLUMN_MM - _LEFT_MM) / max(len(names), 1), _LARGEST_MM)
    figure = new_figure(len(rows) * (side + 1) + 4 + _LEGEND_MM, pictures=True)
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    multiples = [[one * one.size for one in row.maps] for row in rows]
    lowest, highest = np.quantile(np.concatenate([one.ravel() for row in multiples for one in row]), _SHOWN)
    for cells, row, maps in zip(axes, rows, multiples, strict=True):
        cells = list(cells)
        cells[0].set_ylabel(shorten(row.title, max(int(side / 1.6), 6)))
        if pictures:
            axis = cells.pop(0)
            axis.imshow(no_picture() if row.picture is None else row.picture, extent=(0, 1, 0, 1))
        for axis, one in zip(cells, maps, strict=True):
            if row.picture is not None:
                axis.imshow(row.picture.mean(axis=-1), cmap="gray", extent=(0, 1, 0, 1))
            opacity = _OPACITY if row.picture is not None else 1.0
            drawn = axis.imshow(
                one, cmap=COLOUR_MAP, vmin=min(lowest, 1), vmax=max(highest, 1), alpha=opacity, extent=(0, 1, 0, 1)
            )
    for axis in axes.flat:
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    label = "attention weight (multiples of an even share)"
    bar = figure.colorbar(
        drawn, ax=list(axes.flat), location="bottom", aspect=40, shrink=0.9, extend="both", label=label
    )
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    return figure
