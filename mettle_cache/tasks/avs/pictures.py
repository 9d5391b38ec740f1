"""Masks to look at: one PNG a frame, and a sheet of some videos with truth and prediction over their frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 112
GAP = 4
TRUTH = (40, 200, 80)
PREDICTION = (240, 90, 40)
_STRENGTH = 0.55
_GROUND = 32

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SheetVideo:
    """A video's frames (None where the picture is not at hand) with their masks, ``[F, H, W]`` each."""

    frames: Sequence[Picture | None]
    truth: Mask
    predicted: Mask


def mask_png(mask: Mask) -> bytes:
    """A mask ``[H, W]`` as AVSBench stores its own: 8 bits, 0 and 255."""
    return _png(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)))


def contact_sheet(videos: Sequence[SheetVideo]) -> bytes:
    """A PNG with two rows a video, truth (green) above prediction (orange), one column a frame."""
    columns = max(len(video.truth) for video in videos)
    height, width = 2 * len(videos) * (TILE + GAP) + GAP, columns * (TILE + GAP) + GAP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for number, video in enumerate(videos):
        for half, (masks, colour) in enumerate(((video.truth, TRUTH), (video.predicted, PREDICTION))):
            top = GAP + (2 * number + half) * (TILE + GAP)
            for column, (frame, mask) in enumerate(zip(video.frames, masks, strict=True)):
                left = GAP + column * (TILE + GAP)
                sheet[top : top + TILE, left : left + TILE] = overlay(frame, mask, colour)
    return _png(Image.fromarray(sheet))


def overlay(frame: Picture | None, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    """A picture ``[112, 112, 3]``: the frame, or dark ground, tinted where the mask is."""
    size = (TILE, TILE)
    if frame is None:
        ground = np.full((*size, 3), _GROUND, np.float32)
    else:
        ground = np.asarray(Image.fromarray(frame).resize(size), np.float32)
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), bool)
    tinted = (1 - _STRENGTH) * ground + _STRENGTH * np.array(colour, np.float32)
    return np.where(small[..., None], tinted, ground).astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
