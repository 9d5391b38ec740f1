"""A score against the amount of data, with intervals: whether more clips would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, GREY, MARKERS, legend_layout, new_figure, styled

_HEIGHT_MM = 56.0
_MM_A_LINE = 3.4
_SPREAD = 0.03


@dataclass(frozen=True, kw_only=True)
class DataCurve:
    """``score``, and the ends ``low`` and ``high`` of its interval, at each number of ``clips``; ``[P]`` each."""

    label: str
    clips: NDArray[np.int64]
    score: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@styled
def draw_data_curves(
    curves: Sequence[DataCurve],
    *,
    score_label: str,
    interval: str,
    data_label: str = "train clips",
    floor: float | None = None,
    floor_label: str = "floor",
) -> Figure:
    """One line a method over a logarithmic number of clips, with a bar for each interval.

    ``interval`` says what the bars are, such as ``95 % over 5 seeds``; ``floor`` is what no model at all reaches.
    Points of one number of clips stand a little apart so that their bars can be told.
    """
    columns, names = legend_layout([*(curve.label for curve in curves), *([floor_label] if floor is not None else [])])
    figure = new_figure(_HEIGHT_MM + -(-len(names) // columns) * _MM_A_LINE)
    axis = figure.subplots()
    axis.set_xscale("log")
    for number, curve in enumerate(curves):
        apart = (1 + _SPREAD) ** (number - (len(curves) - 1) / 2)
        errors = np.clip([curve.score - curve.low, curve.high - curve.score], 0, None)
        axis.errorbar(
            curve.clips * apart,
            curve.score,
            errors,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3,
            elinewidth=0.8,
            capsize=1.5,
            label=names[number],
        )
    if floor is not None:
        axis.axhline(floor, color=GREY, linestyle="--", linewidth=0.8, label=names[-1])
    sizes = np.unique(np.concatenate([curve.clips for curve in curves]))
    axis.set_xticks(_spaced(sizes), [f"{size:,}" for size in _spaced(sizes)])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
    axis.set_xlabel(f"{data_label} (logarithmic)")
    axis.set_ylabel(f"{score_label}\nbars: {interval}")
    figure.legend(loc="outside upper center", ncols=columns)
    return figure


def _spaced(sizes: NDArray[np.int64]) -> list[int]:
    """Sizes whose labels do not meet: each at least a ninth of the axis from the last one shown."""
    logs = np.log(sizes)
    least = (logs[-1] - logs[0]) / 9
    shown = [0]
    for place in range(1, len(sizes)):
        if logs[place] - logs[shown[-1]] >= least:
            shown.append(place)
    return [int(sizes[place]) for place in shown]
