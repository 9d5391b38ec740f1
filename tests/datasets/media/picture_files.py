"""PNG files of every kind, written byte by byte, so that what is in them does not depend on the library that reads."""

from __future__ import annotations

import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}
"""Of PNG, by the number of channels: grey, RGB, grey with alpha, RGB with alpha."""
PALETTE = 3


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, *, colour_type: int | None = None, extra: bytes = b"") -> bytes:
    """``[H, W]`` or ``[H, W, C]`` of uint8 or uint16 as they stand; ``extra`` chunks come before the pixels."""
    height, width = values.shape[:2]
    samples = values.reshape(height, width, -1)
    kind = COLOUR_TYPES[samples.shape[2]] if colour_type is None else colour_type
    rows = [b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, kind, 0, 0, 0)
    return assemble(header, zlib.compress(b"".join(rows)), extra)


def assemble(header: bytes, pixels: bytes, extra: bytes = b"") -> bytes:
    """A PNG of a header, further chunks and compressed rows."""
    chunks = (chunk(b"IHDR", header), extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def blank(side: int, *, depth: int = 8, colour_type: int = 2) -> bytes:
    """All zeros, ``side`` squared: a few kilobytes that take megabytes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    row = b"\0" * (1 + side * channels * depth // 8)
    squeeze = zlib.compressobj(1)
    pixels = b"".join([*(squeeze.compress(row) for _ in range(side)), squeeze.flush()])
    return assemble(struct.pack(">IIBBBBB", side, side, depth, colour_type, 0, 0, 0), pixels)
