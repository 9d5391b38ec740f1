"""Between the two products of a ``klt`` frame: softmax.py's part, where tokens have a sigma and mu, and rows places.

A row of weights goes over the P places of all rows of codes. Every place has room for more values than there are rows
of codes; what lies behind these, a gap, means nothing and is 0, as sigma and mu are there. *Sides* are the three
numbers that belong to rest, ones and shift (klt_rows.py).

Shapes: F frames, Q queries, C contexts, K mixing rows, M values of a row (P times the room). All floats are float32.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from mettle_cache.methods.kernels.cpu.compiled import FAST, Array, compiled
from mettle_cache.methods.kernels.cpu.softmax import centre_row, softmax_row

_LOWEST = np.float32(-3e38)


@compiled()
def fill_gaps(row: Array, places: int, count: int, value: float) -> None:
    """Write ``value`` behind the first ``count`` values of every place."""
    room = row.shape[0] // places
    for p in range(places):
        row[p * room + count : (p + 1) * room] = value


@compiled()
def softmax_places(row: Array, places: int, count: int) -> None:
    """Softmax over all places in place; gaps become 0."""
    if places > 1:
        fill_gaps(row, places, count, _LOWEST)
        softmax_row(row, row.shape[0])
        fill_gaps(row, places, count, float32(0))
    else:
        softmax_row(row, count)


@compiled(fastmath=FAST)
def denormalise_row(row: Array, sigma: Array, mu: Array, rest: float, ones: float, shift: float) -> None:
    """Turn a vector's products with components into those with raw tokens, in place, given the vector's sides."""
    for n in range(row.shape[0]):
        row[n] = (row[n] + rest) * sigma[n] + mu[n] * ones + shift


@compiled(fastmath=FAST)
def leave_row(row: Array, normed: bool, sigma: Array, mu: Array, sides: Array) -> None:
    """Turn weights of tokens into weights of components, in place, and write the sides of their sum."""
    total = scaled = level = float32(0)
    for n in range(row.shape[0]):
        total += row[n]
    if normed:
        sides[0], sides[1], sides[2] = total, 0, 0
        return
    for n in range(row.shape[0]):
        level += row[n] * mu[n]
        row[n] *= sigma[n]
        scaled += row[n]
    sides[0], sides[1], sides[2] = scaled, level, total


@compiled()
def weigh_rows(
    products: Array,
    asked: Array,
    mixing: Array,
    contexts: int,
    normed: bool,
    sigma: Array,
    mu: Array,
    places: int,
    count: int,
    sides: Array,
) -> None:
    """Turn scores, the first Q rows of ``products [F, R, M]``, into C rows of weights, with mixing rows behind them.

    ``asked [F, Q, 3]`` are the queries' sides, ``mixing`` is ``[K, M]``, ``sigma`` and ``mu`` are ``[F, M]``; ``count``
    rows of codes have ``places``. ``sides [F, C + K, 3]`` are written.
    """
    for f in range(products.shape[0]):
        rows = products[f]
        for q in range(asked.shape[1]):
            fill_gaps(rows[q], places, count, float32(0))
            if not normed:
                denormalise_row(rows[q], sigma[f], mu[f], asked[f, q, 0], asked[f, q, 1], float32(0))
            softmax_places(rows[q], places, count)
            if q >= contexts:
                rows[q % contexts] += rows[q]
        for c in range(contexts):
            leave_row(rows[c], normed, sigma[f], mu[f], sides[f, c])
        for k in range(mixing.shape[0]):
            rows[contexts + k] = mixing[k]
            leave_row(rows[contexts + k], False, sigma[f], mu[f], sides[f, contexts + k])


@compiled()
def weigh_rows_back(
    products: Array,
    asked: Array,
    given: Array,
    mixing: Array,
    contexts: int,
    normed: bool,
    sigma: Array,
    mu: Array,
    places: int,
    count: int,
    sides: Array,
    d_mixing: Array,
) -> None:
    """Turn scores into their gradients, and the gradients of contexts' weights, which follow, into the weights.

    As :func:`weigh_rows`, but ``products [F, Q + C + K, M]`` and as many ``sides``; ``given [F, C + K, 3]`` are those
    of the gradients. The last K rows come as gradients of mixing rows, which are added to ``d_mixing [K, M]``.
    """
    queries = asked.shape[1]
    summed = np.empty(products.shape[2], np.float32)
    for f in range(products.shape[0]):
        rows = products[f]
        for k in range(mixing.shape[0]):
            row, side = rows[queries + contexts + k], given[f, contexts + k]
            fill_gaps(row, places, count, float32(0))
            denormalise_row(row, sigma[f], mu[f], side[0], side[1], side[2])
            d_mixing[k] += row
            row[:] = mixing[k]
            leave_row(row, False, sigma[f], mu[f], sides[f, queries + contexts + k])
        for c in range(contexts):
            gradient = rows[queries + c]
            fill_gaps(gradient, places, count, float32(0))
            if not normed:
                denormalise_row(gradient, sigma[f], mu[f], given[f, c, 0], given[f, c, 1], float32(0))
            summed[:] = 0
            for q in range(c, queries, contexts):
                fill_gaps(rows[q], places, count, float32(0))
                if not normed:
                    denormalise_row(rows[q], sigma[f], mu[f], asked[f, q, 0], asked[f, q, 1], float32(0))
                softmax_places(rows[q], places, count)
                summed += rows[q]
                centre_row(rows[q], gradient)
                leave_row(rows[q], normed, sigma[f], mu[f], sides[f, q])
            gradient[:] = summed
            leave_row(gradient, normed, sigma[f], mu[f], sides[f, queries + c])
