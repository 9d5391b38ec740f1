"""Masks of sounding objects: frame, truth, and each run's prediction with its IoU (Mettle, Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import BLUE, COLUMN_MM, ORANGE, new_figure, no_picture, shorten, styled

_LEFT_MM = 6.0
_LEGEND_MM = 10.0
_LARGEST_MM = 24.0
_LETTERS = 14
_GROUND, _HIT = "#000000", "#FFFFFF"


@dataclass(frozen=True, kw_only=True)
class MaskColumn:
    """One frame: ``picture`` RGB ``[H, W, 3]`` or None, ``truth [h, w]``, and each run's ``predicted [h, w]``.

    ``ious`` are in per cent, one a run.
    """

    title: str
    picture: NDArray[np.uint8] | None
    truth: NDArray[np.bool_]
    predicted: tuple[NDArray[np.bool_], ...]
    ious: tuple[float, ...]


@styled
def draw_mask_grid(columns: Sequence[MaskColumn], runs: Sequence[str]) -> Figure:
    """One column a frame. Predictions show what is hit in white, what is missed in blue, what is too much in orange.

    The row of frames is left out where no picture is at hand.
    """
    pictures = any(column.picture is not None for column in columns)
    names = [*(["frame"] if pictures else []), "truth", *(shorten(run, _LETTERS) for run in runs)]
    side = min((COLUMN_MM - _LEFT_MM) / max(len(columns), 1), _LARGEST_MM)
    figure = new_figure(len(names) * (side + 1) + 3.5 * len(runs) + 4 + _LEGEND_MM, pictures=True)
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for place, column in enumerate(columns):
        cells = list(axes[:, place])
        cells[0].set_title(shorten(column.title, max(int(side / 1.6), 6)))
        if pictures:
            _show(cells.pop(0), no_picture() if column.picture is None else column.picture)
        _show(cells.pop(0), _coloured(column.truth, column.truth))
        for axis, predicted, iou in zip(cells, column.predicted, column.ious, strict=True):
            _show(axis, _coloured(column.truth, predicted))
            axis.set_xlabel(f"IoU {iou:.0f} %", labelpad=1)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    legend = (("hit", _HIT), ("missed", BLUE), ("too much", ORANGE), ("background", _GROUND))
    handles = [Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=name) for name, colour in legend]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _show(axis: Axes, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    # frames fill the square that masks have, as the backbones see them
    axis.imshow(picture, aspect=width / height, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _coloured(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """RGB ``[h, w, 3]`` by agreement: background, too much, missed, hit."""
    colours = np.array([to_rgb(colour) for colour in (_GROUND, ORANGE, BLUE, _HIT)])
    return np.asarray(np.round(255 * colours[2 * truth.astype(int) + predicted]), np.uint8)
