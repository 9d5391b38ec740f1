"""AVSBench's masks: pictures of 224 x 224 pixels, foreground wherever a pixel is not black.

Source: docs/protocols/avs.md, "Masks".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pixels import Pixels, decode_pixels, is_one_colour, open_picture

SIDE = 224
PACKED_BYTES = SIDE * SIDE // 8
"""A mask in a sample table: one bit a pixel, row by row, the first pixel in the highest bit."""


@dataclass(frozen=True)
class Mask:
    """``bits`` are the packed mask, ``levels`` how many colours the file has: more than two make edges a choice."""

    bits: bytes
    levels: int


def read_mask(path: Path) -> Mask:
    """Read a mask of any kind of pixels at its own depth: 1 of 65,535 is foreground as 255 of 255 is.

    Peers threshold S4's masks near 128 with dithering and divide MS3's by 255: the same for files of 0 and 255 only,
    which is what the published ones are.

    Raises
    ------
    MediaFileError
        The file is missing, is no picture, has another size, or does not say by its colours what is foreground.
    """
    with open_picture(path) as picture:
        if picture.size != (SIDE, SIDE):
            raise MediaFileError(path, f"is {picture.width} x {picture.height} pixels, not {SIDE} x {SIDE}")
        pixels = decode_pixels(path, picture)
    colours = pixels.values
    if colours.ndim == 3:
        colours = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    drawn, levels = colours > 0, len(np.unique(colours))
    if what := _contradiction(pixels, drawn, levels):
        raise MediaFileError(path, f"is no mask of white on black: {what}")
    return Mask(pack_mask(drawn), levels)


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """``[224, 224]`` booleans to 6,272 bytes."""
    return np.packbits(mask).tobytes()


def _contradiction(pixels: Pixels, drawn: NDArray[np.bool_], levels: int) -> str | None:
    """Why the colours of a mask cannot be what it means; an empty mask and a full one are possible."""
    if pixels.hides_its_shape():
        return "its colour is the same all over, and its shape is in the alpha channel"
    if pixels.alpha is not None and (drawn & (pixels.alpha == 0)).any():
        return "it is transparent where its colour is not black"
    if pixels.indexes is not None and levels == 1 and not is_one_colour(pixels.indexes):
        return "its palette gives one colour to all of its indexes"
    if levels > 1 and drawn.all():
        return f"it has {levels} colours, and none of them is black"
    return None
