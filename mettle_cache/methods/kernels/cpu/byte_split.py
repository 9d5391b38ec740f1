"""Rows of floats as whole numbers of 24 bits, in three signed bytes each: what tiles of bytes multiply.

The three bytes of a row are rows of their own: all high ones, then all middle ones, then all low ones.

Shapes: D channels or N tokens, whatever a row is of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32

from mettle_cache.methods.kernels.cpu.compiled import FAST, Array, bits_of, compiled, float_of

BYTES_A_NUMBER = 3
# its three signed bytes are at most 127, and stay so when rounding adds one
_LARGEST = np.float32(0x7F7F00)
# of a unit whose inverse is finite; a row of nothing but smaller ones, below 1e-31, counts as 0
_SMALLEST = np.float32(1.2e-38)


@compiled(fastmath=FAST)
def scale_vector(vector: Array, scale: Array, offset: Array, scaled: Array) -> tuple[float, float, float]:
    """``scaled = vector * scale`` and its largest size, what the offset adds to its products, and the vector's sum."""
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
    """A row's largest size, and its sum."""
    total = float32(0)
    largest = int32(0)
    for n in range(row.shape[0]):
        largest = max(largest, int32(bits_of(row[n]) & 0x7FFFFFFF))
        total += row[n]
    return float_of(largest), total


@compiled(fastmath=FAST)
def split_row(row: Array, largest: float, split: Array, p: int, step: int) -> Any:
    """Write the bytes of a row's whole numbers to rows ``p``, ``p + step`` and ``p + 2 step``; the numbers' unit."""
    high, middle, low = split[p], split[p + step], split[p + 2 * step]
    unit = largest / _LARGEST
    inverse = float32(1) / unit if unit > _SMALLEST else float32(0)
    for d in range(row.shape[0]):
        # 128 too many in each byte, and then not: no byte borrows from the next
        shifted = int32(int32(np.rint(row[d] * inverse)) + 0x808080)
        whole = int32(shifted ^ 0x808080)
        high[d], middle[d], low[d] = np.int8(int32(whole >> 16)), np.int8(int32(whole >> 8)), np.int8(whole)
    return unit
