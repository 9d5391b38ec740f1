"""Products of stored tokens and float32 vectors in float32: any codes, any processor.

Four tokens at a time are decoded into the first cache and nowhere else; explicit pieces of 4 x 4 keep sums in
registers, so that a decoded token is loaded once for four vectors. :func:`leave_norm` is the last step back to a
layer's value projection, whose gradients are such products.

Shapes: F frames, N tokens (M: those that a row of products has room for, a multiple of 4), D channels, P vectors. All
floats are float32; ``x [4, D]`` are decoded tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32
from numba.extending import overload

from mettle_cache.methods.kernels.cpu.compiled import FAST, PACKED, Array, aligned, compiled, vector_of

Sums = tuple[float, float, float, float]

PIECE = 4


def decode_piece(codes: Array, f: int, n: int, scale: Array, offset: Array, g: int, x: Array) -> Sums:
    """Decode four tokens of ``codes[f]`` from ``n`` on into ``x [4, D] = code * scale[g] + offset[g]``; gives sums.

    Where fewer than four are left, the last token is repeated.
    """
    raise NotImplementedError("runs in compiled code only")


@overload(decode_piece, strict=False, jit_options={"fastmath": FAST})
def _decode_piece(codes: Any, f: Any, n: Any, scale: Any, offset: Any, g: Any, x: Any) -> Any:
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

    return packed if codes.dtype == PACKED else plain


@compiled(fastmath=FAST)
def measure_piece(x: Array, sums: Sums, eps: float, n: int, mean: Array, rstd: Array) -> None:
    """Mean and inverse standard deviation of four tokens, as a LayerNorm computes them."""
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


@compiled(fastmath=FAST)
def multiply_piece(x: Array, vectors: Array, products: Array, n: int) -> None:
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


@compiled(fastmath=FAST)
def add_piece(x: Array, weights: Array, sums: Array, n: int) -> None:
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
    """Compute the products of vectors and tokens, the vectors' sums and the tokens' statistics.

    Parameters
    ----------
    codes, scale, offset
        ``[F, N, D]``, or packed, and ``[F, D]`` (or ``[1, D]``, the same for all frames): tokens are
        ``codes * scale + offset``.
    vectors
        P in all, one kind after the other: queries ``[G, Q, D]`` (or ``[1, Q, D]``), and gradients ``[R, G, D]`` and
        ``[G, S, D]``, of all G frames of a layer; ``first`` is which of them is the first here.
    eps
        Of the LayerNorm; below 0 for none, and then tokens have no statistics.
    products, totals, mean, rstd
        What is written: ``[F, P, M]``, where what lies behind the N-th token means nothing; the vectors' sums
        ``[F, P]``; tokens' means and inverse deviations ``[F, M]``.
    """
    count, width = totals.shape[1], scale.shape[1]
    x = aligned(PIECE, 4 * width).view(np.float32)
    rows = aligned(count, 4 * width).view(np.float32)
    for f in range(codes.shape[0]):
        for p in range(count):
            rows[p] = vector_of(vectors, first + f, p)
            totals[f, p] = rows[p].sum()
        for n in range(0, codes.shape[1], PIECE):
            sums = decode_piece(codes, f, n, scale, offset, f % scale.shape[0], x)
            if eps >= 0:
                measure_piece(x, sums, eps, n, mean[f], rstd[f])
            multiply_piece(x, rows, products[f], n)


@compiled()
def sum_frames(
    codes: Array, scale: Array, offset: Array, weights: Array, less: Array, added: Array, sums: Array
) -> None:
    """Sum tokens under ``weights [F, R, M]``, which are 0 behind the N-th token, and subtract ``less [F, P]``.

    The sums of the first A rows of weights are added up over the frames into ``added [A, D]``. Those of the next P - A
    rows are written frame by frame to ``sums [F, P - A, D]``.
    """
    total = added.shape[0]
    x = aligned(PIECE, 4 * scale.shape[1]).view(np.float32)
    all_sums = aligned(total + sums.shape[1], 4 * scale.shape[1]).view(np.float32)
    for f in range(codes.shape[0]):
        for p in range(all_sums.shape[0]):
            all_sums[p] = -less[f, p]
        for n in range(0, codes.shape[1], PIECE):
            decode_piece(codes, f, n, scale, offset, f % scale.shape[0], x)
            add_piece(x, weights[f], all_sums, n)
        added += all_sums[:total]
        sums[f] = all_sums[total:]


@compiled(fastmath=FAST)
def leave_norm(
    d_normed: Array, d_shift: Array, values: Array, norm: Array, norm_bias: Array, d_norm: Array, d_norm_bias: Array
) -> None:
    """From ``values * norm`` and ``values @ norm_bias`` back to ``values [D, D]``, ``norm`` and ``norm_bias [D]``.

    One pass over matrices that no core's cache holds. PyTorch sums rows in another order, which gives other bits.

    Their gradients come as ``d_normed [D, D]``, which becomes that of the values, and ``d_shift [D]``.
    """
    d_norm[:], d_norm_bias[:] = 0, 0
    for e in range(values.shape[0]):
        shift, gradients, row = d_shift[e], d_normed[e], values[e]
        for d in range(values.shape[1]):
            d_norm[d] += gradients[d] * row[d]
            d_norm_bias[d] += shift * row[d]
            gradients[d] = gradients[d] * norm[d] + shift * norm_bias[d]
