"""How a player turns and mirrors a video's pictures: by the display matrix, since cameras store what their sensor sees.

FFmpeg hands it out with each frame, whether it came from an MP4's track header, Matroska's projection, the stream or a
picture's EXIF. It maps the stored pixel (x, y) to the shown one: x' = a x + c y, y' = b x + d y.
"""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError

_TOLERANCE = math.radians(1)
"""FFmpeg takes an angle within one degree for a right one too."""


def show_upright(path: Path, frame: av.VideoFrame, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``pixels`` ``[H, W, 3]`` of ``frame`` as they are meant to be seen: ``[H, W, 3]``, or ``[W, H, 3]`` if turned.

    Raises
    ------
    MediaFileError
        The pictures are to be turned by another angle than a multiple of 90 degrees.
    """
    a, b, c, d = _display_matrix(frame)
    if not math.hypot(a, c) or not math.hypot(b, d):
        return pixels  # maps everything to a line or a point: players ignore it
    angle = math.atan2(b, a)
    quarters = round(angle / (math.pi / 2))
    if abs(angle - quarters * math.pi / 2) > _TOLERANCE:
        raise MediaFileError(
            path,
            f"is to be shown turned by {math.degrees(angle):.0f} degrees: only quarter turns are made",
            hint="turn it once and for all: ffmpeg -i FILE OTHER_FILE",
        )
    if quarters % 2:
        pixels, flip_x, flip_y = pixels.swapaxes(0, 1), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    turned: NDArray[np.uint8] = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(turned)


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """``a, b, c, d``; those of the identity where the frame has none."""
    try:
        found = [data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    except ValueError:
        # beside data that PyAV has no name for (a picture's EXIF) it tells the angle alone, counter-clockwise
        angle = math.radians(-frame.rotation)
        return math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    if not found:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(found[0]), np.int32).astype(float)
    return a, b, c, d
