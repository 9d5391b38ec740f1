"""What tiles of bytes multiply: stored codes as bytes, and rows of floats split into bytes.

A token's codes are a row of bytes: where they lie, or a copy of what is packed or of an odd size. A float becomes a
whole number of 24 bits, and that three signed bytes; the three bytes of a row of floats are rows of their own: all high
ones, then all middle ones, then all low ones.

Shapes: F frames, N tokens, D channels; a row of floats has D or N of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32
from numba.extending import overload

from mettle_cache.methods.kernels.cpu.compiled import FAST, PACKED, Array, bits_of, compiled, float_of

BYTES_A_NUMBER = 3
# its three signed bytes are at most 127, and stay so when rounding adds one
_LARGEST = np.float32(0x7F7F00)
# of a unit whose inverse is finite; a row of nothing but smaller ones, below 1e-31, counts as 0
_SMALLEST = np.float32(1.2e-38)


@compiled(fastmath=FAST)
def scale_vector(vector: Array, scale: Array, offset: Array, scaled: Array) -> tuple[float, float, float]:
    """Write ``scaled = vector * scale``; gives the largest size in it, ``vector · offset`` and ``sum(vector)``."""
    shift = total = float32(0)
    largest = int32(0)
    for d in range(vector.shape[0]):
        value = vector[d] * scale[d]
        scaled[d] = value
        largest = max(largest, int32(bits_of(value) & 0x7FFFFFFF))
        shift += vector[d] * offset[d]
        total += vector[d]
    return float_of(largest), shift, total


@compiled(fastmath=FAST)
def size_up(row: Array) -> tuple[float, float]:
    """The largest absolute value of a row, and the row's sum."""
    total = float32(0)
    largest = int32(0)
    for n in range(row.shape[0]):
        largest = max(largest, int32(bits_of(row[n]) & 0x7FFFFFFF))
        total += row[n]
    return float_of(largest), total


@compiled(fastmath=FAST)
def split_row(row: Array, largest: float, split: Array, p: int, step: int) -> Any:
    """Write three bytes of each number, to rows ``p``, ``p + step`` and ``p + 2 step``; gives the unit they count."""
    high, middle, low = split[p], split[p + step], split[p + 2 * step]
    unit = largest / _LARGEST
    inverse = float32(1) / unit if unit > _SMALLEST else float32(0)
    for d in range(row.shape[0]):
        # 128 too many in each byte, and then not: no byte borrows from the next
        shifted = int32(int32(np.rint(row[d] * inverse)) + 0x808080)
        whole = int32(shifted ^ 0x808080)
        high[d], middle[d], low[d] = np.int8(int32(whole >> 16)), np.int8(int32(whole >> 8)), np.int8(whole)
    return unit


def some_tokens(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
    """The codes of a frame's tokens from ``start`` on, as many as ``scratch`` has rows.

    They stay where they are if there are so many and D is a multiple of ``step``. Else, and where two codes share a
    byte, they are copied into the first rows and columns of ``scratch``; the rest of it keeps what it held.
    """
    raise NotImplementedError("runs in compiled code only")


@overload(some_tokens, strict=False)
def _some_tokens(codes: Any, f: Any, start: Any, step: Any, scratch: Any) -> Any:
    def plain(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
        stop = start + scratch.shape[0]
        if stop <= codes.shape[1] and codes.shape[2] % step == 0:
            whole: Array = codes[f, start:stop]
            return whole
        for n in range(min(codes.shape[1] - start, scratch.shape[0])):
            row, copy = codes[f, start + n], scratch[n]
            for d in range(row.shape[0]):
                copy[d] = row[d]
        return scratch

    def packed(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
        half = codes.shape[2]
        for n in range(min(codes.shape[1] - start, scratch.shape[0])):
            row, low, high = codes[f, start + n], scratch[n, :half], scratch[n, half : 2 * half]
            for d in range(half):
                low[d], high[d] = row[d] & 15, row[d] >> 4
        return scratch

    return packed if codes.dtype == PACKED else plain
