"""Predicted masks as files."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask ``[H, W]`` as a PNG like AVSBench's own: 8 bits, 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
