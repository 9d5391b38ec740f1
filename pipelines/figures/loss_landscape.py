"""The loss around trained weights, in a plane of two random directions (Mettle, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOUR_MAP, new_figure, shorten, styled

_COLUMNS = 2
_MM_A_ROW = 40.0
_LEGEND_MM = 14.0
_LEVELS = 12
# from this ratio of the highest to the lowest loss on, a linear scale would show the rim alone
_LOGARITHMIC_FROM = 20.0


@dataclass(frozen=True, kw_only=True)
class LossLandscape:
    """``losses [S, S]`` at ``steps [S]`` of the first direction (rows) and of the second (columns).

    Steps are in units of the weights: a step of 1 adds to every filter a random one of its own norm. The middle step is
    0, where the trained weights are.
    """

    label: str
    steps: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def centre(self) -> float:
        """The loss of the trained weights."""
        middle = len(self.steps) // 2
        return float(self.losses[middle, middle])

    @property
    def local_minima(self) -> int:
        """Points inside the grid that lie below all their eight neighbours."""
        inner = self.losses[1:-1, 1:-1]
        size = len(self.losses)
        shifts = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
        around = [self.losses[row : size - 2 + row, column : size - 2 + column] for row, column in shifts]
        return int((inner < np.min(around, axis=0)).sum())


@styled
def draw_loss_landscapes(landscapes: Sequence[LossLandscape]) -> Figure:
    """One map a run, all on one colour scale, with the loss at the centre and the number of local minima above it."""
    rows = -(-len(landscapes) // _COLUMNS)
    figure = new_figure(rows * _MM_A_ROW + _LEGEND_MM)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    norm = _common_scale(landscapes)
    for axis, landscape in zip(axes, landscapes, strict=False):
        steps = landscape.steps
        reach = (steps[0], steps[-1])
        picture = {"origin": "lower", "extent": (*reach, *reach), "interpolation": "bilinear"}
        drawn = axis.imshow(landscape.losses, norm=norm, cmap=COLOUR_MAP, **picture)
        axis.contour(steps, steps, landscape.losses, _levels(norm), colors="white", linewidths=0.4)
        axis.plot(0, 0, marker="+", color="white", markersize=6, markeredgewidth=1)
        minima = landscape.local_minima
        found = f"{minima} local minim{'um' if minima == 1 else 'a'}"
        axis.set_xticks([steps[0], 0, steps[-1]])
        axis.set_yticks([steps[0], 0, steps[-1]])
        axis.set_title(f"{shorten(landscape.label, 24)}\ncentre {landscape.centre:.3g}, {found}")
    for axis in axes[len(landscapes) :]:
        axis.set_visible(False)
    figure.supxlabel("step along direction 2 (filter norms)", fontsize="medium")
    figure.supylabel("step along direction 1 (filter norms)", fontsize="medium")
    ticks = _round_losses(norm) if isinstance(norm, LogNorm) else None
    figure.colorbar(
        drawn, ax=list(axes), location="top", aspect=40, shrink=0.9, label="loss", ticks=ticks, format="%g"
    ).minorticks_off()
    return figure


def _common_scale(landscapes: Sequence[LossLandscape]) -> Normalize:
    losses = np.concatenate([landscape.losses.ravel() for landscape in landscapes])
    low, high = float(np.nanmin(losses)), float(np.nanmax(losses))
    return LogNorm(low, high) if low > 0 and high > _LOGARITHMIC_FROM * low else Normalize(low, high)


def _round_losses(norm: Normalize) -> list[float]:
    """1, 2 and 5 of each power of ten on the scale, or the powers alone where these would be many."""
    decades = range(math.floor(math.log10(norm.vmin or 1)), math.ceil(math.log10(norm.vmax or 1)) + 1)
    digits = (1, 2, 5) if len(decades) < 4 else (1,)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    return [value for value in values if (norm.vmin or 0) <= value <= (norm.vmax or 0)]


def _levels(norm: Normalize) -> NDArray[np.float64]:
    """Losses at which lines are drawn, evenly over the colour scale and the same for all maps."""
    return np.asarray(norm.inverse(np.linspace(0, 1, _LEVELS + 2)[1:-1]), np.float64)
