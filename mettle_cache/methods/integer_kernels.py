"""Products of int8 and int4 codes with float32 vectors by a processor's integer tiles (AMX), as exact as in float32.

A vector with the channels' scales in it, or a row of weights, becomes whole numbers of 24 bits, and each of them three
signed bytes (planes); codes meet every byte in 32-bit sums, without any rounding. A thousand multiply-adds a cycle
instead of thirty-two make up for three products in the place of one, and codes become floats for the norm's statistics
only.

The same functions as of float_kernels.py, on processors that amx.py admits.

Shapes: F frames, N tokens (M: those that a row of products has room for), D channels, P vectors. A tile is 16 rows of
64 bytes; what is multiplied comes in blocks of 2 by 2 tiles, and memory goes on to whole blocks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, int32, njit
from numba.core import types
from numba.extending import overload

from mettle_cache.methods.amx_instructions import (
    TILE_BYTES,
    TILE_ROWS,
    add_products,
    clear_sums,
    exchange_shapes,
    keep_sums,
    transpose_words,
)
from mettle_cache.methods.compiled import FAST, Array, aligned, bits_of, float_of, vector_of

BLOCK = 2 * TILE_ROWS
# whose sums in whole numbers are kept at a time, close to the core
COLUMNS = 256
PLANES = 3
# its three signed bytes are at most 127, and stay so when rounding adds one
_LARGEST = np.float32(0x7F7F00)
# of a unit whose inverse is finite; a row of nothing but smaller ones, below 1e-31, counts as 0
_SMALLEST = np.float32(1.2e-38)


@njit(nogil=True, cache=True)
def _tile_shapes() -> Array:
    """Eight tiles, all of the largest shape."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile in range(8):
        shapes[16 + 2 * tile], shapes[48 + tile] = TILE_BYTES, TILE_ROWS
    return shapes


@njit(nogil=True, cache=True)
def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step


def unpack_frame(codes: Array, f: int, tokens: Array) -> None:
    """Codes of a frame as bytes in the first rows and columns of ``tokens``."""
    raise NotImplementedError("runs in compiled code only")


@overload(unpack_frame, strict=False)
def _unpack_frame(codes: Any, f: Any, tokens: Any) -> Any:
    def plain(codes: Array, f: int, tokens: Array) -> None:
        for n in range(codes.shape[1]):
            row, own = codes[f, n], tokens[n]
            for d in range(row.shape[0]):
                own[d] = row[d]

    def packed(codes: Array, f: int, tokens: Array) -> None:
        half = codes.shape[2]
        for n in range(codes.shape[1]):
            row, low, high = codes[f, n], tokens[n, :half], tokens[n, half : 2 * half]
            for d in range(half):
                low[d], high[d] = row[d] & 15, row[d] >> 4

    return packed if codes.dtype == types.uint8 else plain


def tokens_of(codes: Array, f: int, scratch: Array) -> Array:
    """A frame's tokens, a multiple of four: where they are, or unpacked in ``scratch``."""
    raise NotImplementedError("runs in compiled code only")


@overload(tokens_of, strict=False)
def _tokens_of(codes: Any, f: Any, scratch: Any) -> Any:
    def plain(codes: Array, f: int, scratch: Array) -> Array:
        if codes.shape[1] % 4 == 0:
            own: Array = codes[f]
            return own
        unpack_frame(codes, f, scratch)
        return scratch

    def packed(codes: Array, f: int, scratch: Array) -> Array:
        unpack_frame(codes, f, scratch)
        return scratch

    return packed if codes.dtype == types.uint8 else plain


@njit(nogil=True, cache=True, fastmath=FAST)
def measure_frame(
    tokens: Array, scale: Array, offset: Array, eps: float, centred: Array, mean: Array, rstd: Array
) -> None:
    """Mean and inverse deviation of tokens, as a LayerNorm has them; four at once, for each sum waits for the last.

    One pass: squares are those of the distance from the frame's middle, from which a token's mean is not far.
    """
    width = scale.shape[0]
    share = float32(1) / width
    middle = float32(0)
    for d in range(width):
        middle += offset[d] * share
    for d in range(width):
        centred[d] = offset[d] - middle
    for n in range(0, mean.shape[0], 4):
        c0, c1, c2, c3 = tokens[n], tokens[n + 1], tokens[n + 2], tokens[n + 3]
        m0 = m1 = m2 = m3 = v0 = v1 = v2 = v3 = float32(0)
        for d in range(width):
            s, o = scale[d], centred[d]
            x0, x1 = float32(c0[d]) * s + o, float32(c1[d]) * s + o
            x2, x3 = float32(c2[d]) * s + o, float32(c3[d]) * s + o
            m0 += x0
            m1 += x1
            m2 += x2
            m3 += x3
            v0 += x0 * x0
            v1 += x1 * x1
            v2 += x2 * x2
            v3 += x3 * x3
        mean[n], mean[n + 1], mean[n + 2], mean[n + 3] = m0, m1, m2, m3
        rstd[n], rstd[n + 1], rstd[n + 2], rstd[n + 3] = v0, v1, v2, v3
    for n in range(mean.shape[0]):
        away = mean[n] * share
        mean[n] = away + middle
        rstd[n] = float32(1) / math.sqrt(max(rstd[n] * share - away * away, float32(0)) + eps)


@njit(nogil=True, cache=True, fastmath=FAST)
def fold_vector(vector: Array, scale: Array, offset: Array, folded: Array) -> tuple[float, float, float]:
    """``folded = vector * scale`` and its largest size, what the offset adds to its products, and the vector's sum."""
    shift = total = float32(0)
    largest = int32(0)
    for d in range(scale.shape[0]):
        value = vector[d] * scale[d]
        folded[d] = value
        largest = max(largest, int32(bits_of(value) & 0x7FFFFFFF))
        shift += vector[d] * offset[d]
        total += vector[d]
    return float_of(largest), shift, total


@njit(nogil=True, cache=True, fastmath=FAST)
def size_up(row: Array) -> tuple[float, float]:
    """A row's largest size, and its sum."""
    total = float32(0)
    largest = int32(0)
    for n in range(row.shape[0]):
        largest = max(largest, int32(bits_of(row[n]) & 0x7FFFFFFF))
        total += row[n]
    return float_of(largest), total


@njit(nogil=True, cache=True, fastmath=FAST)
def split_row(row: Array, largest: float, planes: Array, p: int, step: int) -> Any:
    """Write the bytes of a row's whole numbers to rows ``p``, ``p + step`` and ``p + 2 step``; the numbers' unit."""
    high, middle, low = planes[p], planes[p + step], planes[p + 2 * step]
    unit = largest / _LARGEST
    inverse = float32(1) / unit if unit > _SMALLEST else float32(0)
    for d in range(row.shape[0]):
        # 128 too many in each byte, and then not: no byte borrows from the next
        shifted = int32(int32(np.rint(row[d] * inverse)) + 0x808080)
        whole = int32(shifted ^ 0x808080)
        high[d], middle[d], low[d] = np.int8(int32(whole >> 16)), np.int8(int32(whole >> 8)), np.int8(whole)
    return unit


@njit(nogil=True, cache=True)
def pack_tokens(tokens: Array, columns: Array) -> None:
    """Tokens ``[N, D]`` as columns for the tiles: words of four channels' bytes ``[D / 4, N]``."""
    stride, column_stride = tokens.shape[1], 4 * columns.shape[1]
    for n in range(0, tokens.shape[0], TILE_ROWS):
        for d in range(0, tokens.shape[1], TILE_BYTES):
            source = tokens.ctypes.data + n * stride + d
            transpose_words(source, stride, columns.ctypes.data + (d // 4) * column_stride + 4 * n, column_stride)


@njit(nogil=True, cache=True)
def interleave_tokens(tokens: Array, columns: Array) -> None:
    """Channels ``[N, D]`` as columns for the tiles: words of four tokens' bytes ``[N / 4, D]``."""
    for w in range(tokens.shape[0] // 4):
        n = 4 * w
        row, t0, t1, t2, t3 = columns[w], tokens[n], tokens[n + 1], tokens[n + 2], tokens[n + 3]
        for d in range(t0.shape[0]):
            low = int32(np.uint8(t0[d])) | int32(int32(np.uint8(t1[d])) << 8)
            high = int32(int32(np.uint8(t2[d])) << 16) | int32(int32(t3[d]) << 24)
            row[d] = int32(low | high)


@njit(nogil=True, cache=True)
def multiply_blocks(planes: Array, columns: Array, start: int, found: Array) -> None:
    """``found [R, C]``, products of all rows and as many columns from ``start`` on."""
    row, column, out = planes.ctypes.data, columns.ctypes.data + 4 * start, found.ctypes.data
    depth, stride, step = planes.shape[1], 4 * columns.shape[1], 4 * found.shape[1]
    for c in range(0, min(found.shape[1], columns.shape[1] - start), BLOCK):
        for p in range(0, planes.shape[0], BLOCK):
            clear_sums()
            for k in range(0, depth, TILE_BYTES):
                add_products(row + p * depth + k, depth, column + (k // 4) * stride + 4 * c, stride)
            keep_sums(out + p * step + 4 * c, step)


@njit(nogil=True, cache=True, fastmath=FAST)
def join_planes(
    found: Array, p: int, count: int, unit: float, scale: Array, shift: float, offset: Array, less: float, row: Array
) -> None:
    """``row[c] = scale[c] * product + shift * offset[c] - less``, the product of vector ``p`` from its three planes."""
    high, middle, low = found[p], found[count + p], found[2 * count + p]
    for c in range(row.shape[0]):
        whole = float32(high[c]) * float32(65536) + float32(middle[c]) * float32(256) + float32(low[c])
        row[c] = unit * whole * scale[c] + shift * offset[c] - less


@njit(nogil=True, cache=True)
def multiply_planes(
    planes: Array,
    units: Array,
    columns: Array,
    scale: Array,
    shifts: Array,
    offset: Array,
    less: Array,
    found: Array,
    added: Array,
    out: Array,
) -> None:
    """``scale[c] * (vector p · column c) + shifts[p] * offset[c] - less[p]`` of each p and c, some columns at a time.

    Those of the first vectors are added to ``added``, the others written to ``out``.
    """
    count, total = units.shape[0], added.shape[0]
    joined = np.empty(found.shape[1], np.float32)
    for start in range(0, scale.shape[0], found.shape[1]):
        multiply_blocks(planes, columns, start, found)
        stop = min(start + found.shape[1], scale.shape[0])
        own, more = scale[start:stop], offset[start:stop]
        for p in range(total):
            join_planes(found, p, count, units[p], own, shifts[p], more, less[p], joined[: stop - start])
            added[p, start:stop] += joined[: stop - start]
        for p in range(total, count):
            join_planes(found, p, count, units[p], own, shifts[p], more, less[p], out[p - total, start:stop])


@njit(nogil=True, cache=True)
def score_frames(
    codes: Array,
    scale: Array,
    offset: Array,
    vectors: tuple[Array, Array, Array],
    first: int,
    eps: float,
    products: Array,
    totals: Array,
    mean: Array,
    rstd: Array,
) -> None:
    """As :func:`mettle_cache.methods.float_kernels.score_frames`."""
    width, asked = scale.shape[1], totals.shape[1]
    room, padded = _round_up(products.shape[2], BLOCK), _round_up(width, TILE_BYTES)
    tokens, planes = aligned(room, padded), aligned(_round_up(PLANES * asked, BLOCK), padded)
    # where vectors end: whatever the columns hold there counts nothing
    tokens[:], planes[:] = 0, 0
    columns = aligned(padded // 4, 4 * room).view(np.int32)
    found = aligned(planes.shape[0], 4 * COLUMNS).view(np.int32)
    folded, units, shifts = np.empty(width, np.float32), np.empty(asked, np.float32), np.empty(asked, np.float32)
    ones, nothing = np.ones(products.shape[2], np.float32), np.zeros(asked, np.float32)
    nobody = np.empty((0, 0), np.float32)
    shapes, former = _tile_shapes(), np.zeros(64, np.uint8)
    exchange_shapes(shapes.ctypes.data, former.ctypes.data)
    for f in range(codes.shape[0]):
        s, o = scale[f % scale.shape[0]], offset[f % scale.shape[0]]
        # in one sweep from far memory: the passes that follow walk several rows at once
        unpack_frame(codes, f, tokens)
        if eps >= 0:
            measure_frame(tokens, s, o, eps, folded, mean[f], rstd[f])
        for p in range(asked):
            largest, shifts[p], totals[f, p] = fold_vector(vector_of(vectors, first + f, p), s, o, folded)
            units[p] = split_row(folded, largest, planes, p, asked)
        pack_tokens(tokens, columns)
        multiply_planes(planes, units, columns, ones, shifts, ones, nothing, found, nobody, products[f])
    exchange_shapes(former.ctypes.data, shapes.ctypes.data)


@njit(nogil=True, cache=True)
def sum_frames(
    codes: Array, scale: Array, offset: Array, weights: Array, less: Array, added: Array, sums: Array
) -> None:
    """As :func:`mettle_cache.methods.float_kernels.sum_frames`."""
    asked = added.shape[0] + sums.shape[1]
    room, padded = _round_up(weights.shape[2], TILE_BYTES), _round_up(scale.shape[1], TILE_BYTES)
    scratch, planes = aligned(room, padded), aligned(_round_up(PLANES * asked, BLOCK), room)
    scratch[:], planes[:] = 0, 0
    columns = aligned(room // 4, 4 * padded).view(np.int32)
    found = aligned(planes.shape[0], 4 * COLUMNS).view(np.int32)
    units, totals = np.empty(asked, np.float32), np.empty(asked, np.float32)
    shapes, former = _tile_shapes(), np.zeros(64, np.uint8)
    exchange_shapes(shapes.ctypes.data, former.ctypes.data)
    for f in range(codes.shape[0]):
        s, o = scale[f % scale.shape[0]], offset[f % scale.shape[0]]
        tokens = tokens_of(codes, f, scratch)
        interleave_tokens(tokens, columns)
        for p in range(asked):
            largest, totals[p] = size_up(weights[f, p])
            units[p] = split_row(weights[f, p], largest, planes, p, asked)
        multiply_planes(planes, units, columns, s, totals, o, less[f], found, added, sums[f])
    exchange_shapes(former.ctypes.data, shapes.ctypes.data)
