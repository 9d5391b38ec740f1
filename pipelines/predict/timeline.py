"""The timeline of an answer: a lane for each event's category, as long as the video, and how sure the head is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, PALE, new_figure, shorten, styled

_MM_A_LANE, _MM_A_PANEL, _MM_AROUND = 4.5, 6.0, 8.0
_NAME_LETTERS, _TITLE_LETTERS = 22, 50
_SECONDS_A_PANEL, _MOST_PANELS, _MOST_LANES = 60, 20, 12


@dataclass(frozen=True)
class Lane:
    """One category (of one modality): whether it is found in each second, ``[S]``, and its probability, ``[S]``."""

    label: str
    found: NDArray[np.bool_]
    scores: NDArray[np.float64]


@styled
def draw_timeline(title: str, lanes: Sequence[Lane], seconds: int) -> Figure:
    """A minute a panel. The height of a bar is the probability; seconds that are found are full, others pale.

    Lanes beyond the first twelve, and what comes after twenty minutes, are left out, and the title says so.
    """
    shown = lanes[:_MOST_LANES]
    starts = range(0, min(seconds, _SECONDS_A_PANEL * _MOST_PANELS), _SECONDS_A_PANEL)
    height = max(1, len(shown)) * _MM_A_LANE + _MM_A_PANEL
    figure = new_figure(len(starts) * height + _MM_AROUND)
    axes = figure.subplots(len(starts), 1, squeeze=False).ravel()
    for axis, start in zip(axes, starts, strict=True):
        _draw_panel(axis, shown, start, min(seconds, start + _SECONDS_A_PANEL))
    left_out = [f"+{len(lanes) - len(shown)} categories"] if len(lanes) > len(shown) else []
    if seconds > _SECONDS_A_PANEL * _MOST_PANELS:
        left_out.append(f"{_MOST_PANELS} of {seconds / 60:.0f} min")
    more = f" ({', '.join(left_out)})" if left_out else ""
    axes[0].set_title(f"{shorten(title, _TITLE_LETTERS)}{more}", loc="left", x=0)
    axes[-1].set_xlabel("time (s)")
    return figure


def _draw_panel(axis: Axes, lanes: Sequence[Lane], start: int, stop: int) -> None:
    axis.set_xlim(start, max(stop, start + 1))
    axis.set_ylim(-max(1, len(lanes)), 0.15)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_yticks([-place - 0.55 for place in range(len(lanes))], [shorten(x.label, _NAME_LETTERS) for x in lanes])
    if not lanes:
        axis.text(0.5, 0.5, "nothing found", transform=axis.transAxes, ha="center", va="center")
    for place, lane in enumerate(lanes):
        colour, bottom = COLOURS[place % len(COLOURS)], -place - 0.95
        colours = [to_rgba(colour) if found else to_rgba(colour, 0.3) for found in lane.found[start:stop]]
        heights = 0.85 * np.clip(lane.scores[start:stop], 0, 1)
        axis.bar(np.arange(start, stop), heights, width=1, align="edge", bottom=bottom, color=colours, linewidth=0)
        axis.plot([start, stop], [bottom, bottom], color=PALE, linewidth=0.4, zorder=0.5)
