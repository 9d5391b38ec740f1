"""Meta-tokens of segments in the plane, by class, beside the frozen backbone's own tokens (Mettle, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, MARKERS, new_figure, shorten, styled

MOST_CLASSES = len(COLOURS) * len(MARKERS)
BACKGROUND = -1
_BACKGROUND, _OTHERS = "#BBBBBB", "#666666"
_COLUMNS = 2
_MM_A_ROW = 44.0
_MM_A_LINE = 3.1
_LEGEND_COLUMNS = 3


@dataclass(frozen=True, kw_only=True)
class SegmentMap:
    """``points [S, 2]`` of S segments with their ``classes [S]``, -1 for background.

    ``silhouette`` is that of the segments with a class, in the space the points were projected from.
    """

    title: str
    points: NDArray[np.float64]
    classes: NDArray[np.int64]
    silhouette: float


@styled
def draw_meta_token_maps(maps: Sequence[SegmentMap], categories: Sequence[str], *, perplexity: float) -> Figure:
    """One map a panel, two in a row; the most frequent classes have marks of their own, all others share one."""
    shown = _most_frequent(maps)
    rows = -(-len(maps) // _COLUMNS)
    entries = len(shown) + 2
    figure = new_figure(rows * _MM_A_ROW + -(-entries // _LEGEND_COLUMNS) * _MM_A_LINE + 7)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, one in zip(axes, maps, strict=False):
        _scatter(axis, one, np.isin(one.classes, [BACKGROUND]), marker=".", color=_BACKGROUND, size=3)
        rest = ~np.isin(one.classes, [BACKGROUND, *shown])
        _scatter(axis, one, rest, marker=".", color=_OTHERS, size=5)
        for place, number in enumerate(shown):
            _scatter(axis, one, one.classes == number, marker=_marker(place), color=_colour(place), size=6)
        axis.set_title(f"{shorten(one.title, 28)}\nsilhouette {one.silhouette:.2f}")
        axis.set_xlabel("t-SNE axis 1")
        axis.set_ylabel("t-SNE axis 2")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[["top", "right"]].set_visible(True)
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    handles = [_mark(_marker(place), _colour(place), categories[number]) for place, number in enumerate(shown)]
    handles.append(_mark(".", _BACKGROUND, "background"))
    if any((~np.isin(one.classes, [BACKGROUND, *shown])).any() for one in maps):
        handles.append(_mark(".", _OTHERS, "other classes"))
    title = f"t-SNE of perplexity {perplexity:g}; axes have no unit"
    figure.legend(
        handles=handles, title=title, loc="outside lower center", ncols=_LEGEND_COLUMNS, title_fontsize="medium"
    )
    return figure


def _most_frequent(maps: Sequence[SegmentMap]) -> list[int]:
    """The classes that get a mark, in the order of the vocabulary."""
    numbers, counts = np.unique(np.concatenate([one.classes for one in maps]), return_counts=True)
    ranked = sorted((-count, number) for number, count in zip(numbers, counts, strict=True) if number != BACKGROUND)
    return sorted(int(number) for _, number in ranked[:MOST_CLASSES])


def _scatter(axis: Axes, one: SegmentMap, chosen: NDArray[np.bool_], *, marker: str, color: str, size: float) -> None:
    x, y = one.points[chosen].T
    axis.scatter(x, y, s=size, marker=marker, c=color, linewidths=0)


def _mark(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=3.5, label=shorten(label, 15))


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _marker(place: int) -> str:
    return MARKERS[place // len(COLOURS)]
