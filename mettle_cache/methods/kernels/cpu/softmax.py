"""Between the two products of a frame: scores become weights, and going back weights' gradients become scores'.

Rows have M values. The first N belong to tokens; the others mean nothing and are set to 0.

Shapes: F frames, N tokens, Q queries, C contexts (the queries q, q + C, ... share one), K mixing rows. All floats are
float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, int32

from mettle_cache.methods.kernels.cpu.compiled import FAST, Array, bits_of, compiled, float_of

# Taylor coefficients of 2^r: 1e-8 for |r| <= 1/2
_LOG2E = np.float32(1 / math.log(2))
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


@compiled()
def ordered(bits: int) -> Any:
    """Bits of floats as integers in the order of the floats: those of negative floats are inverted. Its own inverse."""
    return int32(bits ^ int32(int32(bits >> 31) & 0x7FFFFFFF))


@compiled()
def highest_value(row: Array, count: int) -> Any:
    """The largest of the first ``count`` values, or NaN if there is one. A loop over bits can be vectorised."""
    highest = int32(-(2**31))
    for n in range(count):
        highest = max(highest, ordered(bits_of(row[n])))
    return float_of(ordered(highest))


@compiled(fastmath=FAST)
def softmax_row(row: Array, count: int) -> None:
    """Softmax over the first ``count`` values in place; the others become 0."""
    highest = highest_value(row, count)
    total = float32(0)
    for n in range(count):
        # 2^t of t = k + r with |r| <= 1/2
        t = max((row[n] - highest) * _LOG2E, float32(-126))
        k = int32(t - float32(0.5))
        r = t - float32(k)
        power = float32(1) + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
        # 2^k from its bits: a table would keep the loop from vectors
        row[n] = power * float_of(int32(int32(k + 127) << 23))
        total += row[n]
    share = float32(1) / total
    for n in range(count):
        row[n] *= share
    row[count:] = 0


@compiled(fastmath=FAST)
def normalise_row(row: Array, mean: Array, rstd: Array, total: float) -> None:
    """Turn a vector's products with tokens into those with normalised tokens, in place; ``total`` is its sum."""
    for n in range(row.shape[0]):
        row[n] = (row[n] - mean[n] * total) * rstd[n]


@compiled(fastmath=FAST)
def rescale_row(row: Array, mean: Array, rstd: Array) -> Any:
    """Turn weights of normalised tokens into weights of tokens, in place; gives what to subtract from the sum."""
    lost = float32(0)
    for n in range(row.shape[0]):
        row[n] *= rstd[n]
        lost += row[n] * mean[n]
    return lost


@compiled(fastmath=FAST)
def centre_row(weights: Array, gradient: Array) -> None:
    """Go back through a softmax: its weights become ``weights * (gradient - weights · gradient)``, in place."""
    total = float32(0)
    for n in range(weights.shape[0]):
        total += weights[n] * gradient[n]
    for n in range(weights.shape[0]):
        weights[n] *= gradient[n] - total


@compiled()
def weigh_frames(
    products: Array, totals: Array, mixing: Array, contexts: int, eps: float, mean: Array, rstd: Array, lost: Array
) -> None:
    """Turn scores, the first Q rows of ``products [F, R, M]``, into C rows of weights, and put mixing rows behind them.

    R is the larger of Q and C + K. ``totals [F, Q]`` are the sums of what gave the scores; without a norm (``eps``
    below 0) they, ``mean`` and ``rstd`` have no meaning. ``lost [F, C + K]`` has to be subtracted from every channel of
    the sums under these weights.
    """
    queries, count = totals.shape[1], mixing.shape[1]
    products[:, :, count:] = 0
    for f in range(products.shape[0]):
        rows = products[f]
        for q in range(queries):
            if eps >= 0:
                normalise_row(rows[q], mean[f], rstd[f], totals[f, q])
            softmax_row(rows[q], count)
            if q >= contexts:
                rows[q % contexts] += rows[q]
        if eps >= 0:
            for c in range(contexts):
                lost[f, c] = rescale_row(rows[c], mean[f], rstd[f])
        rows[contexts : contexts + mixing.shape[0], :count] = mixing


@compiled()
def weigh_frames_back(
    products: Array,
    totals: Array,
    mixing: Array,
    contexts: int,
    eps: float,
    mean: Array,
    rstd: Array,
    lost: Array,
    d_mixing: Array,
) -> None:
    """Turn scores into their gradients, and the gradients of contexts' weights, which follow, into the weights.

    Arguments are those of :func:`weigh_frames`, but ``products [F, Q + C + K, M]`` and as many ``totals`` and ``lost``.
    The last K rows come as gradients of the mixing rows, which are added to ``d_mixing [K, N]``.
    """
    count = mixing.shape[1]
    queries = totals.shape[1] - contexts - mixing.shape[0]
    summed = np.empty(products.shape[2], np.float32)
    products[:, :, count:] = 0
    for f in range(products.shape[0]):
        rows = products[f]
        d_mixing += rows[queries + contexts :, :count]
        for c in range(contexts):
            gradient = rows[queries + c]
            if eps >= 0:
                normalise_row(gradient, mean[f], rstd[f], totals[f, queries + c])
            summed[:] = 0
            for q in range(c, queries, contexts):
                if eps >= 0:
                    normalise_row(rows[q], mean[f], rstd[f], totals[f, q])
                softmax_row(rows[q], count)
                summed += rows[q]
                centre_row(rows[q], gradient)
                if eps >= 0:
                    lost[f, q] = rescale_row(rows[q], mean[f], rstd[f])
            gradient[:] = summed
            if eps >= 0:
                lost[f, queries + c] = rescale_row(gradient, mean[f], rstd[f])
        rows[queries + contexts :, :count] = mixing
