"""Events along clips: what is annotated, and what runs find (Mettle, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import COLOURS, GREY, PALE, legend_layout, new_figure, shorten, styled

_MM_A_BAR = 2.6
_MM_A_LANE = 1.8
_MM_A_CLIP = 6.5
_MM_A_TEXT = 5.0
_MM_AROUND, _MM_A_LINE = 10.0, 3.4
_TRUTH = "#333333"
_NAME_LETTERS = 22
_TITLE_LETTERS = 40


@dataclass(frozen=True)
class EventLane:
    """One category (of one modality): ``annotated [T]``, and for every run ``predicted [T]``.

    ``scores`` are how sure each run is, ``[T]`` from 0 to 1, or None where that is not known.
    """

    label: str
    annotated: NDArray[np.bool_]
    predicted: tuple[NDArray[np.bool_], ...]
    scores: tuple[NDArray[np.floating] | None, ...]


@dataclass(frozen=True)
class ClipTimeline:
    """One clip; ``left_out`` counts lanes for which there was no room."""

    title: str
    lanes: tuple[EventLane, ...]
    left_out: int = 0


@styled
def draw_timelines(
    clips: Sequence[ClipTimeline], runs: Sequence[str], *, rule: str = "", seconds: float = 1.0, numbers: bool = False
) -> Figure:
    """One panel a clip, one lane a category: the annotation, then every run of ``runs``, in bars below each other.

    Height of a run's bar shows its score where that is known (a full bar is 1). What it predicts is filled and
    outlined, because that may be the likeliest of many and still unlikely; other scores are pale. ``rule`` says how the
    clips were chosen, ``seconds`` is the length of a segment. With ``numbers`` the highest score of each bar stands
    behind it.
    """
    heights = [_panel_mm(clip, len(runs)) for clip in clips]
    columns, names = legend_layout(["annotated", *runs])
    figure = new_figure(sum(heights) + _MM_AROUND + -(-len(names) // columns) * _MM_A_LINE)
    axes = figure.subplots(len(clips), 1, sharex=True, squeeze=False, height_ratios=heights).ravel()
    for axis, clip in zip(axes, clips, strict=True):
        _draw_clip(axis, clip, len(runs), seconds, numbers=numbers)
    axes[-1].set_xlabel(f"time (s)\n{rule}" if rule else "time (s)")
    colours = [_TRUTH, *(_colour(number) for number in range(len(runs)))]
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    return figure


def _draw_clip(axis: Axes, clip: ClipTimeline, runs: int, seconds: float, *, numbers: bool) -> None:
    lane_height = _lane_mm(runs)
    ticks = []
    for place, lane in enumerate(clip.lanes):
        top = -place * lane_height
        _draw_bar(axis, top - _MM_A_BAR, lane.annotated, None, _TRUTH, seconds)
        for number, (predicted, scores) in enumerate(zip(lane.predicted, lane.scores, strict=True)):
            bottom = top - (number + 2) * _MM_A_BAR
            _draw_bar(axis, bottom, predicted, scores, _colour(number), seconds)
            if numbers and scores is not None:
                end = len(predicted) * seconds
                axis.text(end, bottom + _MM_A_BAR / 2, f" {scores.max():.2f}", va="center", color=_colour(number))
        ticks.append(top - (runs + 1) * _MM_A_BAR / 2)
    segments = len(clip.lanes[0].annotated) if clip.lanes else 10
    axis.set_yticks(ticks, [shorten(lane.label, _NAME_LETTERS) for lane in clip.lanes])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlim(0, segments * seconds)
    axis.set_xticks(np.arange(0, segments + 1, 2 if segments > 5 else 1) * seconds)
    axis.set_ylim(-_lanes_mm(clip, runs), _MM_A_LANE / 2)
    more = f" (+{clip.left_out})" if clip.left_out else ""
    axis.set_title(f"{shorten(clip.title, _TITLE_LETTERS)}{more}", loc="left", x=0)
    if not clip.lanes:
        axis.text(0.5, 0.5, "nothing annotated, nothing found", transform=axis.transAxes, ha="center", va="center")


def _draw_bar(
    axis: Axes,
    bottom: float,
    active: NDArray[np.bool_],
    scores: NDArray[np.floating] | None,
    colour: str,
    seconds: float,
) -> None:
    """One bar a segment; its base line shows where the clip is, whatever is found in it."""
    starts = np.arange(len(active)) * seconds
    values = active.astype(float) if scores is None else scores
    full = 0.9 * _MM_A_BAR
    colours = [to_rgba(colour) if found else to_rgba(colour, 0.3) for found in active]
    axis.bar(starts, values * full, width=seconds, align="edge", bottom=bottom, color=colours, linewidth=0)
    if scores is not None:
        found_at = [(start, seconds) for start in starts[active]]
        axis.broken_barh(found_at, (bottom, full), facecolors="none", edgecolors=colour, linewidth=0.6)
    axis.plot([0, len(active) * seconds], [bottom, bottom], color=PALE, linewidth=0.4, zorder=0.5)
    axis.vlines(starts[1:], bottom, bottom + full, color=GREY, linewidth=0.15, zorder=0.4)


def _colour(run: int) -> str:
    return COLOURS[run % len(COLOURS)]


def _lane_mm(runs: int) -> float:
    return (runs + 1) * _MM_A_BAR + _MM_A_LANE


def _lanes_mm(clip: ClipTimeline, runs: int) -> float:
    return len(clip.lanes) * _lane_mm(runs) or _MM_A_TEXT


def _panel_mm(clip: ClipTimeline, runs: int) -> float:
    return _lanes_mm(clip, runs) + _MM_A_CLIP
