"""A sheet of segmented videos: truth and prediction over their frames, with the IoU of each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mettle_cache.pipelines.figures.style import (
    BLUE,
    COLUMN_MM,
    PALE,
    VERMILION,
    YELLOW,
    legend_row,
    new_page,
    shorten,
    show_picture,
    styled,
)

Picture = NDArray[np.uint8]
Masks = NDArray[np.bool_]

MOST_FRAMES = 5
LEGEND = (("truth alone", BLUE), ("prediction alone", VERMILION), ("both", YELLOW))
_STRENGTH = 0.6
_MM_MARGIN, _MM_GAP, _MM_LINE, _MM_LARGEST = 1.5, 1.0, 3.6, 24.0
_LETTERS, _TITLE_LETTERS = 58, 54


@dataclass(frozen=True, kw_only=True)
class SheetVideo:
    """One video: masks ``[F, h, w]`` of each frame, its IoU in per cent, and its picture where that is at hand."""

    title: str
    pictures: tuple[Picture | None, ...]
    truth: Masks
    predicted: Masks
    ious: tuple[float, ...]


@styled
def draw_mask_sheet(videos: Sequence[SheetVideo], *, rule: str) -> Figure:
    """One row a video, at most five of its frames, evenly spread; ``rule`` says how the videos were chosen."""
    lines = textwrap.wrap(rule, _LETTERS)
    columns = max((min(len(video.truth), MOST_FRAMES) for video in videos), default=1)
    side = min((COLUMN_MM - 2 * _MM_MARGIN - (columns - 1) * _MM_GAP) / columns, _MM_LARGEST)
    row = side + 2 * _MM_LINE + 2 * _MM_GAP
    head = _MM_LINE * (len(lines) + 1) + 3 * _MM_GAP
    figure, page = new_page(head + row * len(videos))
    legend_row(page, _MM_GAP, LEGEND)
    for number, line in enumerate(lines, start=1):
        page.text(COLUMN_MM / 2, _MM_GAP + _MM_LINE * number, line, ha="center", va="top")
    for number, video in enumerate(videos):
        top = head + number * row
        page.text(_MM_MARGIN, top, shorten(video.title, _TITLE_LETTERS), va="top", weight="bold")
        for column, frame in enumerate(_spread(len(video.truth))):
            left = _MM_MARGIN + column * (side + _MM_GAP)
            tinted = overlay(video.pictures[frame], video.truth[frame], video.predicted[frame])
            show_picture(page, tinted, left, top + _MM_LINE, side, side)
            below = top + _MM_LINE + side + _MM_GAP / 2
            page.text(left + side / 2, below, f"IoU {video.ious[frame]:.0f} %", ha="center", va="top")
    return figure


def overlay(picture: Picture | None, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Picture:
    """A frame, or plain grey, of the masks' size ``[h, w, 3]``, tinted where truth or prediction is foreground."""
    height, width = truth.shape
    if picture is None:
        ground = np.full((height, width, 3), int(PALE[1:3], 16), np.float64)
    else:
        ground = np.asarray(Image.fromarray(picture).resize((width, height)), np.float64)
    colours = 255 * np.array([to_rgb(colour) for _, colour in LEGEND])
    strength = _STRENGTH * (truth | predicted)[..., None]
    tint = colours[np.where(truth & predicted, 2, np.where(truth, 0, 1))]
    return np.asarray(np.round((1 - strength) * ground + strength * tint), np.uint8)


def _spread(frames: int) -> list[int]:
    """At most :data:`MOST_FRAMES` of so many frames, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, frames - 1, min(frames, MOST_FRAMES))})
