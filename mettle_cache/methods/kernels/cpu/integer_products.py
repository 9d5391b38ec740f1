"""Products of int8 and int4 codes with float32 vectors by a processor's integer tiles (AMX), as exact as in float32.

A vector, multiplied by the channels' scales, or a row of weights becomes whole numbers of 24 bits, and each of these
three signed bytes (byte_split.py). The codes are multiplied by every byte and summed in 32 bits, without any rounding.
That is three products instead of one, but at a thousand multiply-adds a cycle instead of thirty-two. Codes become
floats for the norm's statistics only. All steps are done for one piece of tokens, or for some channels of all tokens,
before the next, while they are in the core's cache.

The same functions as of float_products.py, on processors that amx.py admits.

Shapes: F frames, N tokens (M: those that a row of products has room for), D channels, P vectors, R rows of bytes. A
tile is 16 rows of 64 bytes; what is multiplied comes in pieces of 2 by 2 tiles, and memory goes on to whole ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32

from mettle_cache.methods.kernels.cpu.amx_instructions import (
    TILE_BYTES,
    TILE_ROWS,
    add_products,
    add_upper_products,
    clear_sums,
    exchange_shapes,
    keep_sums,
    keep_upper_sums,
)
from mettle_cache.methods.kernels.cpu.byte_split import BYTES_A_NUMBER, scale_vector, size_up, some_tokens, split_row
from mettle_cache.methods.kernels.cpu.compiled import FAST, LINE, Array, aligned, compiled, vector_of
from mettle_cache.methods.kernels.cpu.simd import (
    LANES,
    add_moments,
    fetch_ahead,
    interleave_bytes,
    join_bytes,
    transpose_words,
)

PIECE = 2 * TILE_ROWS
# channels whose bytes are interleaved at a time: a cache line of every token
CHANNELS = 64


@compiled()
def _tile_shapes() -> Array:
    """Eight tiles, all of the largest shape."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile in range(8):
        shapes[16 + 2 * tile], shapes[48 + tile] = TILE_BYTES, TILE_ROWS
    return shapes


@compiled()
def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step


@compiled()
def _apart(nbytes: int) -> Any:
    """Bytes of a row, rounded up to an odd number of cache lines: else rows would evict each other from the cache."""
    return (_round_up(nbytes, LINE) // LINE | 1) * LINE


@compiled()
def _padded_floats(width: int) -> Array:
    """Memory for a row of floats, with zeros behind it up to a whole vector register."""
    return np.zeros(_round_up(width, LANES), np.float32)


@compiled(fastmath=FAST)
def centre_offset(offset: Array, centred: Array) -> Any:
    """The middle of a frame's offsets, and each one's distance from it."""
    middle = float32(0)
    for d in range(offset.shape[0]):
        middle += offset[d]
    middle /= float32(offset.shape[0])
    for d in range(offset.shape[0]):
        centred[d] = offset[d] - middle
    return middle


@compiled(fastmath=FAST)
def measure_tokens(
    tokens: Array, scale: Array, centred: Array, middle: float, share: float, eps: float, mean: Array, rstd: Array
) -> None:
    """Mean and inverse standard deviation of tokens, as a LayerNorm computes them; ``share`` is 1 / D.

    One pass: squares are those of the distance from the frame's middle, from which a token's mean is not far.
    """
    start, stride, sums, squares = tokens.ctypes.data, tokens.shape[1], mean.ctypes.data, rstd.ctypes.data
    for n in range(0, mean.shape[0], 4):
        place = start + n * stride
        add_moments(
            place, stride, scale.shape[0], scale.ctypes.data, centred.ctypes.data, sums + 4 * n, squares + 4 * n
        )
    for n in range(mean.shape[0]):
        away = mean[n] * share
        mean[n] = away + middle
        rstd[n] = float32(1) / math.sqrt(max(rstd[n] * share - away * away, float32(0)) + eps)


@compiled()
def pack_tokens(tokens: Array, columns: Array) -> None:
    """A piece of tokens as columns for the tiles: words of four channels' bytes ``[D / 4, PIECE]``."""
    stride, column_stride = tokens.shape[1], 4 * columns.shape[1]
    for d in range(0, stride, TILE_BYTES):
        source, target = tokens.ctypes.data + d, columns.ctypes.data + (d // 4) * column_stride
        transpose_words(source, stride, target, column_stride)
        transpose_words(source + TILE_ROWS * stride, stride, target + TILE_BYTES, column_stride)


@compiled()
def interleave_tokens(tokens: Array, start: int, columns: Array) -> None:
    """Some channels from ``start`` on as columns for the tiles: words of four tokens' bytes ``[N / 4, CHANNELS]``."""
    stride, column_stride = tokens.shape[1], 4 * columns.shape[1]
    for w in range(tokens.shape[0] // 4):
        source, target = tokens.ctypes.data + 4 * w * stride + start, columns.ctypes.data + w * column_stride
        for d in range(0, min(CHANNELS, stride - start), PIECE):
            interleave_bytes(source + d, stride, target + 4 * d)


@compiled()
def fetch_lines(ahead: int, lines: int) -> int:
    """Prefetch ``lines`` cache lines from an address on; gives the address behind them."""
    for _ in range(lines):
        fetch_ahead(ahead)
        ahead += LINE
    return ahead


@compiled()
def multiply_piece(
    byte_rows: Array, depth: int, columns: Array, start: int, byte_products: Array, ahead: int, lines: int
) -> None:
    """``byte_products [R, PIECE]``, products of all rows and a piece of columns from ``start`` on.

    Meanwhile memory from the address ``ahead`` on is fetched, ``lines`` of the cache in each step.
    """
    row, column, out = byte_rows.ctypes.data, columns.ctypes.data + 4 * start, byte_products.ctypes.data
    row_stride, stride, step = byte_rows.shape[1], 4 * columns.shape[1], 4 * byte_products.shape[1]
    whole = byte_rows.shape[0] // PIECE * PIECE
    for p in range(0, whole, PIECE):
        clear_sums()
        for k in range(0, depth, TILE_BYTES):
            ahead = fetch_lines(ahead, lines)
            add_products(row + p * row_stride + k, row_stride, column + (k // 4) * stride, stride)
        keep_sums(out + p * step, step)
    if whole < byte_rows.shape[0]:
        clear_sums()
        for k in range(0, depth, TILE_BYTES):
            ahead = fetch_lines(ahead, lines)
            add_upper_products(row + whole * row_stride + k, row_stride, column + (k // 4) * stride, stride)
        keep_upper_sums(out + whole * step, step)


@compiled()
def join_piece(
    byte_products: Array,
    units: Array,
    scale: Array,
    shifts: Array,
    offset: Array,
    less: Array,
    total: int,
    start: int,
    out: Array,
) -> None:
    """``out[p, c] = scale[c] * (vector p · column c) + shifts[p] * offset[c] - less[p]`` of a piece of columns.

    Those of the first ``total`` vectors are added to what is there.
    """
    count, step, out_step = units.shape[0], 4 * byte_products.shape[1], 4 * out.shape[1]
    products_start, scale_start, offset_start = byte_products.ctypes.data, scale.ctypes.data, offset.ctypes.data
    out_start = out.ctypes.data
    for p in range(count):
        for c in range(start, min(start + PIECE, scale.shape[0]), LANES):
            whole, row = products_start + p * step + 4 * (c - start), out_start + p * out_step + 4 * c
            s, o = scale_start + 4 * c, offset_start + 4 * c
            join_bytes(whole, count * step, units[p], s, shifts[p], o, less[p], p < total, row)


@compiled()
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
    """As :func:`mettle_cache.methods.kernels.cpu.float_products.score_frames`."""
    width, count, room = scale.shape[1], totals.shape[1], products.shape[2]
    padded, share = _round_up(width, TILE_BYTES), float32(1) / float32(width)
    scratch, byte_rows = aligned(PIECE, padded), aligned(_round_up(BYTES_A_NUMBER * count, TILE_ROWS), _apart(padded))
    # where vectors end: whatever the columns hold there counts nothing
    scratch[:], byte_rows[:] = 0, 0
    columns = aligned(padded // 4, _apart(4 * PIECE)).view(np.int32)
    byte_products = aligned(byte_rows.shape[0], _apart(4 * PIECE)).view(np.int32)
    s, o, centred, scaled = _padded_floats(width), _padded_floats(width), _padded_floats(width), _padded_floats(width)
    units, shifts = np.empty(count, np.float32), np.empty(count, np.float32)
    steps = max(_round_up(byte_rows.shape[0], PIECE) // PIECE * (padded // TILE_BYTES), 1)
    lines = _round_up(PIECE * codes.shape[2] // LINE, steps) // steps
    ones, nothing = np.ones(room, np.float32), np.zeros(count, np.float32)
    shapes, former = _tile_shapes(), np.zeros(64, np.uint8)
    exchange_shapes(shapes.ctypes.data, former.ctypes.data)
    for f in range(codes.shape[0]):
        s[:width], o[:width] = scale[f % scale.shape[0]], offset[f % scale.shape[0]]
        middle = centre_offset(o[:width], centred)
        for p in range(count):
            largest, shifts[p], totals[f, p] = scale_vector(vector_of(vectors, first + f, p), s, o, scaled)
            units[p] = split_row(scaled, largest, byte_rows, p, count)
        for n in range(0, room, PIECE):
            tokens = some_tokens(codes, f, n, TILE_BYTES, scratch)
            if eps >= 0:
                piece_mean, piece_rstd = mean[f, n : n + PIECE], rstd[f, n : n + PIECE]
                measure_tokens(tokens, s, centred, middle, share, eps, piece_mean, piece_rstd)
            pack_tokens(tokens, columns)
            # the next piece's codes come from far memory; what lies behind the last one does no harm
            ahead = codes.ctypes.data + (f * codes.shape[1] + n + PIECE) * codes.shape[2]
            multiply_piece(byte_rows, padded, columns, 0, byte_products, ahead, lines)
            join_piece(byte_products, units, ones, shifts, ones, nothing, 0, n, products[f])
    exchange_shapes(former.ctypes.data, shapes.ctypes.data)


@compiled()
def sum_frames(
    codes: Array, scale: Array, offset: Array, weights: Array, less: Array, added: Array, sums: Array
) -> None:
    """As :func:`mettle_cache.methods.kernels.cpu.float_products.sum_frames`."""
    total, width = added.shape[0], scale.shape[1]
    count, room = total + sums.shape[1], _round_up(weights.shape[2], TILE_BYTES)
    scratch = aligned(_round_up(codes.shape[1], 4), _round_up(width, TILE_BYTES))
    byte_rows = aligned(_round_up(BYTES_A_NUMBER * count, TILE_ROWS), _apart(room))
    columns = aligned(room // 4, _apart(4 * CHANNELS)).view(np.int32)
    scratch[:], byte_rows[:], columns[:] = 0, 0, 0
    byte_products = aligned(byte_rows.shape[0], _apart(4 * PIECE)).view(np.int32)
    s, o = _padded_floats(width), _padded_floats(width)
    units, totals = np.empty(count, np.float32), np.empty(count, np.float32)
    all_sums = np.zeros((count, len(s)), np.float32)
    shapes, former = _tile_shapes(), np.zeros(64, np.uint8)
    exchange_shapes(shapes.ctypes.data, former.ctypes.data)
    for f in range(codes.shape[0]):
        s[:width], o[:width] = scale[f % scale.shape[0]], offset[f % scale.shape[0]]
        tokens = some_tokens(codes, f, 0, PIECE, scratch)
        for p in range(count):
            largest, totals[p] = size_up(weights[f, p])
            units[p] = split_row(weights[f, p], largest, byte_rows, p, count)
        for start in range(0, len(s), CHANNELS):
            interleave_tokens(tokens, start, columns)
            for c in range(0, min(CHANNELS, len(s) - start), PIECE):
                multiply_piece(byte_rows, room, columns, c, byte_products, 0, 0)
                join_piece(byte_products, units, s, totals, o, less[f], total, start + c, all_sums)
        sums[f] = all_sums[total:, :width]
    added += all_sums[:total, :width]
    exchange_shapes(former.ctypes.data, shapes.ctypes.data)
