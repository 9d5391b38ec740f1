"""AVSBench's masks: pictures of 224 x 224 pixels, foreground wherever a pixel is not black (spec-avs.md 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pictures import load_grey

SIDE = 224
PACKED_BYTES = SIDE * SIDE // 8
"""A mask in a sample table: one bit a pixel, row by row, the first pixel in the highest bit."""


@dataclass(frozen=True)
class Mask:
    """``bits`` are the packed mask, ``levels`` how many grey values the file has: more than two make edges a choice."""

    bits: bytes
    levels: int


def read_mask(path: Path) -> Mask:
    """Read a mask of any picture mode; a palette or colours go by their brightness.

    Peers threshold S4's masks near 128 with dithering and divide MS3's by 255: the same for files of 0 and 255 only,
    which is what the published ones are.

    Raises
    ------
    MediaFileError
        The file is missing, is no picture, or has another size.
    """
    grey = load_grey(path)
    if grey.shape != (SIDE, SIDE):
        raise MediaFileError(path, f"is {grey.shape[1]} x {grey.shape[0]} pixels, not {SIDE} x {SIDE}")
    return Mask(pack_mask(grey > 0), levels=len(np.unique(grey)))


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """``[224, 224]`` booleans to 6,272 bytes."""
    return np.packbits(mask).tobytes()
