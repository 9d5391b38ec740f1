"""A picture of where a head looked for an answer: pictures of the seconds, places on them, and shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOUR_MAP, TEXT_POINTS, new_figure, shorten, styled

_COLUMNS = 5
_MM_A_ROW, _MM_AROUND = 26.0, 10.0
_TITLE_LETTERS = 70


@dataclass(frozen=True)
class LookedAt:
    """One second: its picture ``[H, W, 3]``, shares of its places ``[rows, columns]`` and of the second itself."""

    second: int
    picture: NDArray[np.uint8]
    places: NDArray[np.float64]
    seen: float
    heard: float


@styled
def draw_look(title: str, seconds: Sequence[LookedAt]) -> Figure:
    """The pictures in their order, brighter where the sound was looked for; shares are per cent of all seconds."""
    rows = -(-len(seconds) // _COLUMNS)
    figure = new_figure(rows * _MM_A_ROW + _MM_AROUND, pictures=True)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    spread = [float(one.places.max() - one.places.min()) for one in seconds]
    for axis in axes:
        axis.axis("off")
    for axis, one, width in zip(axes, seconds, spread, strict=False):
        height, long = one.picture.shape[:2]
        axis.imshow(one.picture)
        strength = (one.places - one.places.min()) / (width or 1.0)
        axis.imshow(strength, cmap=COLOUR_MAP, alpha=0.5, extent=(0, long, height, 0), interpolation="bilinear")
        axis.set_title(f"{one.second} s\n{100 * one.seen:.0f} | {100 * one.heard:.0f}")
    figure.suptitle(shorten(title, _TITLE_LETTERS))
    figure.supxlabel("share of the second (%) in what is seen | in what is heard", fontsize=TEXT_POINTS)
    return figure
