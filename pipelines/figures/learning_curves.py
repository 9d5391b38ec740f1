"""Runs' loss on train and score on the selecting split, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, legend_layout, new_figure, styled

_HEIGHT_MM = 44.0
_MM_A_LINE = 3.4
_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """``loss [E]`` (mean over the epoch's train samples) and ``score [E]``, NaN where nothing was scored.

    ``best`` is the selected epoch, counted from 1; 0 for none.
    """

    label: str
    loss: NDArray[np.float64]
    score: NDArray[np.float64]
    best: int


@styled
def draw_learning_curves(curves: Sequence[LearningCurve], *, score_label: str) -> Figure:
    """The loss on the left, the score on the right, a dot at the selected epoch; one line a run."""
    scored = any(np.isfinite(curve.score).any() for curve in curves)
    columns, names = legend_layout([curve.label for curve in curves])
    figure = new_figure(_HEIGHT_MM + -(-len(curves) // columns) * _MM_A_LINE)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False).ravel()
    for axis, label in zip(axes, ("train loss (mean)", score_label), strict=False):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for number, curve in enumerate(curves):
        _draw(axes[0], curve.loss, curve.best, number)
        if scored:
            _draw(axes[1], curve.score, curve.best, number)
    handles = axes[0].get_lines()
    figure.legend(handles, names, loc="outside upper center", ncols=columns)
    return figure


def _draw(axis: Axes, values: NDArray[np.float64], best: int, number: int) -> None:
    colour, line = COLOURS[number % len(COLOURS)], _LINES[number // len(COLOURS) % len(_LINES)]
    epochs = np.arange(1, len(values) + 1)
    # a single epoch has no line
    marker = "." if len(values) == 1 else ""
    axis.plot(epochs, values, color=colour, linestyle=line, marker=marker)
    if best:
        axis.scatter([best], [values[best - 1]], color=colour, s=10, zorder=3)
