"""Compiled loops: scores, softmax and sums of a frame while its codes are in a core's second cache.

Four tokens at a time are decoded into the first cache and nowhere else; explicit blocks of 4 x 4 keep sums in
registers, so that a decoded token is loaded once for four vectors. One thread's work: fused.py splits frames over
threads. It is one file because numba compiles a cached function anew when its own file changes, not when one that it
calls does.

Shapes: F frames, N tokens (M: rounded up to a multiple of 4), D channels, P vectors, Q queries, K mixing rows. All
floats are float32; ``x [4, D]`` are decoded tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite.ir import Constant, FloatType, IntType
from numba import float32, njit
from numba.core import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

Array = NDArray[Any]
Sums = tuple[float, float, float, float]

BLOCK = 4
# sums may be reordered into vectors; infinities and NaN keep their meaning
FAST = {"contract", "reassoc", "nsz", "arcp"}
_LINE = 64  # bytes
# Taylor coefficients of 2^r: 1e-8 for |r| <= 1/2
_LOG2E = np.float32(1 / math.log(2))
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


@njit(nogil=True, cache=True)
def aligned_rows(rows: int, width: int) -> Array:
    """Zeros ``[rows, width]`` from a cache line's start on: vectors that straddle two lines load at half the speed."""
    memory = np.zeros(rows * width + _LINE // 4, np.float32)
    start = -(memory.ctypes.data // 4) % (_LINE // 4)
    return memory[start : start + rows * width].reshape(rows, width)


def decode_block(codes: Array, f: int, n: int, scale: Array, offset: Array, g: int, x: Array) -> Sums:
    """Four tokens of ``codes[f]`` from ``n`` on as ``x [4, D] = code * scale[g] + offset[g]``, and their sums.

    Behind the last token, that one repeats.
    """
    raise NotImplementedError("runs in compiled code only")


@overload(decode_block, strict=False, jit_options={"fastmath": FAST})
def _decode_block(codes: Any, f: Any, n: Any, scale: Any, offset: Any, g: Any, x: Any) -> Any:
    def plain(codes: Array, f: int, n: int, scale: Array, offset: Array, g: int, x: Array) -> Sums:
        last = codes.shape[1] - 1
        n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
        s0 = s1 = s2 = s3 = float32(0)
        for d in range(codes.shape[2]):
            s, o = scale[g, d], offset[g, d]
            x0 = float32(codes[f, n, d]) * s + o
            x1 = float32(codes[f, n1, d]) * s + o
            x2 = float32(codes[f, n2, d]) * s + o
            x3 = float32(codes[f, n3, d]) * s + o
            x[0, d], x[1, d], x[2, d], x[3, d] = x0, x1, x2, x3
            s0 += x0
            s1 += x1
            s2 += x2
            s3 += x3
        return s0, s1, s2, s3

    def packed(codes: Array, f: int, n: int, scale: Array, offset: Array, g: int, x: Array) -> Sums:
        last, half = codes.shape[1] - 1, codes.shape[2]
        n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
        s0 = s1 = s2 = s3 = float32(0)
        for d in range(half):
            c0, c1, c2, c3 = codes[f, n, d], codes[f, n1, d], codes[f, n2, d], codes[f, n3, d]
            s, o = scale[g, d], offset[g, d]
            low0, low1 = float32(c0 & 15) * s + o, float32(c1 & 15) * s + o
            low2, low3 = float32(c2 & 15) * s + o, float32(c3 & 15) * s + o
            s, o = scale[g, half + d], offset[g, half + d]
            high0, high1 = float32(c0 >> 4) * s + o, float32(c1 >> 4) * s + o
            high2, high3 = float32(c2 >> 4) * s + o, float32(c3 >> 4) * s + o
            x[0, d], x[1, d], x[2, d], x[3, d] = low0, low1, low2, low3
            x[0, half + d], x[1, half + d], x[2, half + d], x[3, half + d] = high0, high1, high2, high3
            s0 += low0 + high0
            s1 += low1 + high1
            s2 += low2 + high2
            s3 += low3 + high3
        return s0, s1, s2, s3

    return packed if codes.dtype == types.uint8 else plain


@njit(nogil=True, cache=True, fastmath=FAST)
def measure_block(x: Array, sums: Sums, eps: float, n: int, mean: Array, rstd: Array) -> None:
    """Mean and inverse deviation of four tokens, as a LayerNorm has them."""
    width = x.shape[1]
    share = float32(1) / width
    m0, m1, m2, m3 = sums[0] * share, sums[1] * share, sums[2] * share, sums[3] * share
    v0 = v1 = v2 = v3 = float32(0)
    for d in range(width):
        d0, d1, d2, d3 = x[0, d] - m0, x[1, d] - m1, x[2, d] - m2, x[3, d] - m3
        v0 += d0 * d0
        v1 += d1 * d1
        v2 += d2 * d2
        v3 += d3 * d3
    mean[n], mean[n + 1], mean[n + 2], mean[n + 3] = m0, m1, m2, m3
    rstd[n] = float32(1) / math.sqrt(v0 * share + eps)
    rstd[n + 1] = float32(1) / math.sqrt(v1 * share + eps)
    rstd[n + 2] = float32(1) / math.sqrt(v2 * share + eps)
    rstd[n + 3] = float32(1) / math.sqrt(v3 * share + eps)


@njit(nogil=True, cache=True, fastmath=FAST)
def multiply_block(x: Array, vectors: Array, products: Array, n: int) -> None:
    """``products[:, n : n + 4] = vectors xᵀ``."""
    count, width = vectors.shape
    for p in range(0, count - 3, 4):
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = float32(0)
        c0 = c1 = c2 = c3 = e0 = e1 = e2 = e3 = float32(0)
        for d in range(width):
            x0, x1, x2, x3 = x[0, d], x[1, d], x[2, d], x[3, d]
            a, b, c, e = vectors[p, d], vectors[p + 1, d], vectors[p + 2, d], vectors[p + 3, d]
            a0 += a * x0
            a1 += a * x1
            a2 += a * x2
            a3 += a * x3
            b0 += b * x0
            b1 += b * x1
            b2 += b * x2
            b3 += b * x3
            c0 += c * x0
            c1 += c * x1
            c2 += c * x2
            c3 += c * x3
            e0 += e * x0
            e1 += e * x1
            e2 += e * x2
            e3 += e * x3
        products[p, n], products[p, n + 1], products[p, n + 2], products[p, n + 3] = a0, a1, a2, a3
        products[p + 1, n], products[p + 1, n + 1], products[p + 1, n + 2], products[p + 1, n + 3] = b0, b1, b2, b3
        products[p + 2, n], products[p + 2, n + 1], products[p + 2, n + 2], products[p + 2, n + 3] = c0, c1, c2, c3
        products[p + 3, n], products[p + 3, n + 1], products[p + 3, n + 2], products[p + 3, n + 3] = e0, e1, e2, e3
    for p in range(count // 4 * 4, count):
        a0 = a1 = a2 = a3 = float32(0)
        for d in range(width):
            a = vectors[p, d]
            a0 += a * x[0, d]
            a1 += a * x[1, d]
            a2 += a * x[2, d]
            a3 += a * x[3, d]
        products[p, n], products[p, n + 1], products[p, n + 2], products[p, n + 3] = a0, a1, a2, a3


@njit(nogil=True, cache=True, fastmath=FAST)
def add_block(x: Array, weights: Array, sums: Array, n: int) -> None:
    """``sums += weights[:, n : n + 4] x``."""
    count, width = sums.shape
    for p in range(0, count - 3, 4):
        a0, a1, a2, a3 = weights[p, n], weights[p, n + 1], weights[p, n + 2], weights[p, n + 3]
        b0, b1, b2, b3 = weights[p + 1, n], weights[p + 1, n + 1], weights[p + 1, n + 2], weights[p + 1, n + 3]
        c0, c1, c2, c3 = weights[p + 2, n], weights[p + 2, n + 1], weights[p + 2, n + 2], weights[p + 2, n + 3]
        e0, e1, e2, e3 = weights[p + 3, n], weights[p + 3, n + 1], weights[p + 3, n + 2], weights[p + 3, n + 3]
        for d in range(width):
            x0, x1, x2, x3 = x[0, d], x[1, d], x[2, d], x[3, d]
            sums[p, d] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            sums[p + 1, d] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            sums[p + 2, d] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            sums[p + 3, d] += e0 * x0 + e1 * x1 + e2 * x2 + e3 * x3
    for p in range(count // 4 * 4, count):
        a0, a1, a2, a3 = weights[p, n], weights[p, n + 1], weights[p, n + 2], weights[p, n + 3]
        for d in range(width):
            sums[p, d] += a0 * x[0, d] + a1 * x[1, d] + a2 * x[2, d] + a3 * x[3, d]


@intrinsic
def _power_of_two(typing: Any, exponent: Any) -> Any:
    """2 to a whole number from -126 to 127, put together from its bits: a table would keep loops from vectors."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.add(arguments[0], Constant(IntType(32), 127)), Constant(IntType(32), 23))
        return builder.bitcast(bits, FloatType())

    return types.float32(types.int32), build


@njit(nogil=True, cache=True)
def highest_value(row: Array) -> Any:
    """The largest value of a row whose length is a multiple of 4; four at once, for each waits for the one before."""
    a, b, c, e = row[0], row[1], row[2], row[3]
    for n in range(0, row.shape[0], 4):
        a = row[n] if row[n] > a else a
        b = row[n + 1] if row[n + 1] > b else b
        c = row[n + 2] if row[n + 2] > c else c
        e = row[n + 3] if row[n + 3] > e else e
    return max(max(a, b), max(c, e))


@njit(nogil=True, cache=True, fastmath=FAST)
def softmax_row(row: Array, count: int) -> None:
    """Softmax over the first ``count`` values in place; the others, which repeat the last of them, become 0."""
    highest = highest_value(row)
    total = float32(0)
    for n in range(count):
        # 2^t of t = k + r with |r| <= 1/2
        t = max((row[n] - highest) * _LOG2E, float32(-126))
        k = np.int32(t - float32(0.5))
        r = t - float32(k)
        power = float32(1) + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
        row[n] = power * _power_of_two(k)
        total += row[n]
    share = float32(1) / total
    for n in range(count):
        row[n] *= share
    row[count:] = 0


@njit(nogil=True, cache=True, fastmath=FAST)
def normalise_row(row: Array, mean: Array, rstd: Array, vector: Array) -> None:
    """Turn products with a token into products with the normalised token, in place."""
    total = float32(0)
    for d in range(vector.shape[0]):
        total += vector[d]
    for n in range(row.shape[0]):
        row[n] = (row[n] - mean[n] * total) * rstd[n]


@njit(nogil=True, cache=True, fastmath=FAST)
def rescale_row(row: Array, mean: Array, rstd: Array) -> Any:
    """Turn weights of normalised tokens into weights of tokens, in place; what their sum then has too much."""
    lost = float32(0)
    for n in range(row.shape[0]):
        row[n] *= rstd[n]
        lost += row[n] * mean[n]
    return lost


@njit(nogil=True, cache=True, fastmath=FAST)
def centre_row(gradient: Array, weights: Array) -> None:
    """The softmax's backward, in place: ``weights * (gradient - weights · gradient)``."""
    total = float32(0)
    for n in range(weights.shape[0]):
        total += weights[n] * gradient[n]
    for n in range(weights.shape[0]):
        gradient[n] = weights[n] * (gradient[n] - total)


@njit(nogil=True, cache=True)
def weigh_back(
    products: Array, q: int, d: int, vectors: Array, mean: Array, rstd: Array, count: int, eps: float, lost: Array
) -> None:
    """Turn row ``q``, scores, into weights of tokens, and row ``d``, the weights' gradients, into the scores'."""
    if eps >= 0:
        normalise_row(products[q], mean, rstd, vectors[q])
        normalise_row(products[d], mean, rstd, vectors[d])
    softmax_row(products[q], count)
    centre_row(products[d], products[q])
    if eps >= 0:
        lost[q] = rescale_row(products[q], mean, rstd)
        lost[d] = rescale_row(products[d], mean, rstd)


@njit(nogil=True, cache=True)
def score_frame(
    codes: Array,
    f: int,
    scale: Array,
    offset: Array,
    g: int,
    vectors: Array,
    eps: float,
    x: Array,
    mean: Array,
    rstd: Array,
    products: Array,
) -> None:
    """``products [P, M]`` of vectors and tokens; with a norm also the tokens' ``mean`` and ``rstd``, ``[M]``."""
    for n in range(0, products.shape[1], BLOCK):
        totals = decode_block(codes, f, n, scale, offset, g, x)
        if eps >= 0:
            measure_block(x, totals, eps, n, mean, rstd)
        multiply_block(x, vectors, products, n)


@njit(nogil=True, cache=True)
def sum_frame(codes: Array, f: int, scale: Array, offset: Array, g: int, weights: Array, x: Array, sums: Array) -> None:
    """``sums [P, D]`` of tokens under ``weights [P, M]``."""
    sums[:] = 0
    for n in range(0, weights.shape[1], BLOCK):
        decode_block(codes, f, n, scale, offset, g, x)
        add_block(x, weights, sums, n)


@njit(nogil=True, cache=True)
def forward_frames(
    codes: Array,
    first: int,
    scale: Array,
    offset: Array,
    queries: Array,
    mixing: Array,
    eps: float,
    context: Array,
    mixed: Array,
) -> None:
    """Frames of :func:`mettle_cache.methods.fused.pool`; ``eps`` below 0 is no norm.

    ``codes`` are of some frames, the ``first`` of them on. Everything else is of all frames, or one row for all alike.
    """
    count, width = codes.shape[1], scale.shape[1]
    rounded = (count + BLOCK - 1) // BLOCK * BLOCK
    asked, mixers = queries.shape[1], mixing.shape[0]
    x, own = aligned_rows(BLOCK, width), aligned_rows(asked, width)
    weights = aligned_rows(asked + mixers, rounded)
    weights[asked:, :count] = mixing
    mean, rstd = np.zeros(rounded, np.float32), np.ones(rounded, np.float32)
    sums, lost = aligned_rows(asked + mixers, width), np.zeros(asked, np.float32)
    for f in range(codes.shape[0]):
        frame = first + f
        g = frame % scale.shape[0]
        own[:] = queries[frame % queries.shape[0]]
        score_frame(codes, f, scale, offset, g, own, eps, x, mean, rstd, weights[:asked])
        for q in range(asked):
            if eps >= 0:
                normalise_row(weights[q], mean, rstd, own[q])
            softmax_row(weights[q], count)
            if eps >= 0:
                lost[q] = rescale_row(weights[q], mean, rstd)
        sum_frame(codes, f, scale, offset, g, weights, x, sums)
        for q in range(asked):
            context[q, frame] = sums[q] - lost[q]
        mixed[frame] = sums[asked:]


@njit(nogil=True, cache=True)
def backward_frames(
    codes: Array,
    first: int,
    part: int,
    scale: Array,
    offset: Array,
    queries: Array,
    mixing: Array,
    eps: float,
    d_context: Array,
    d_mixed: Array,
    context: Array,
    mixed: Array,
    d_queries: Array,
    d_mixing: Array,
) -> None:
    """The same frames of :func:`mettle_cache.methods.fused.pool_backward`; arguments as of :func:`forward_frames`.

    Gradients are added up in row ``part`` of ``d_mixing``, and of ``d_queries`` where all frames have the same queries.
    """
    count, width = codes.shape[1], scale.shape[1]
    rounded = (count + BLOCK - 1) // BLOCK * BLOCK
    asked, mixers = queries.shape[1], mixing.shape[0]
    x, vectors = aligned_rows(BLOCK, width), aligned_rows(2 * asked + mixers, width)
    products = aligned_rows(2 * asked + mixers, rounded)
    mean, rstd = np.zeros(rounded, np.float32), np.ones(rounded, np.float32)
    sums, lost = aligned_rows(2 * asked + mixers, width), np.zeros(2 * asked, np.float32)
    for f in range(codes.shape[0]):
        frame = first + f
        g = frame % scale.shape[0]
        vectors[:asked] = queries[frame % queries.shape[0]]
        vectors[asked : 2 * asked] = d_context[:, frame]
        vectors[2 * asked :] = d_mixed[frame]
        score_frame(codes, f, scale, offset, g, vectors, eps, x, mean, rstd, products)
        d_mixing[part] += products[2 * asked :, :count]
        products[2 * asked :, :count] = mixing
        products[2 * asked :, count:] = 0
        for q in range(asked):
            weigh_back(products, q, asked + q, vectors, mean, rstd, count, eps, lost)
        sum_frame(codes, f, scale, offset, g, products, x, sums)
        for q in range(asked):
            context[q, frame] = sums[q] - lost[q]
            d_queries[part if queries.shape[0] == 1 else frame, q] += sums[asked + q] - lost[asked + q]
        mixed[frame] = sums[2 * asked :]
