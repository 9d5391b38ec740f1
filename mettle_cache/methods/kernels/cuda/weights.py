"""Between the two passes over a frame: scores become weights; going back, weights' gradients become scores' gradients.

Attended tokens are ``sigma (z + rest) + mu 1``, and so is what the mixing rows see. With a norm over affine codes sigma
and mu are what the first pass found, and mixing rows see ``z + middle 1``. ``klt`` stores them, and its normalised
tokens are ``z + rest``. So a weighted sum of tokens is a sum of rows under ``w = pre * sigma``, beside the sums of w,
of ``pre * mu`` and of pre. Shapes are those of form.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mettle_cache.methods.kernels.cuda.form import (
    HIGHEST,
    LEVEL,
    NARROW,
    ONES,
    SHARE,
    TOTAL,
    WEIGHT,
    WEIGHT_UNIT,
    Frame,
    Output,
    Scratch,
    Sizes,
)
from mettle_cache.methods.kernels.cuda.products import store_parts, unit_of


@triton.jit
def info_of(scratch: Scratch, kind: tl.constexpr, row: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """A number of each row."""
    return tl.load(scratch.info + kind * scratch.length + row, mask=inside, other=0)


@triton.jit
def tokens_of(frame: Frame, n: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Sigma and mu of tokens."""
    return tl.load(frame.sigma + n, mask=inside, other=0), tl.load(frame.mu + n, mask=inside, other=0)


@triton.jit
def scores_of(
    scratch: Scratch, sizes: Sizes, v: tl.tensor, n: tl.tensor, inside: tl.tensor, FORM: tl.constexpr
) -> tl.tensor:
    """Products of vectors with rows, as the first pass left them."""
    return tl.load(scratch.scores + v * (FORM.places * sizes.room) + n, mask=inside, other=0)


@triton.jit
def attended(
    frame: Frame, sizes: Sizes, scratch: Scratch, v: tl.tensor, n: tl.tensor, inside: tl.tensor, FORM: tl.constexpr
) -> tl.tensor:
    """Products of queries or contexts' gradients ``v [V, 1]`` with attended tokens ``n``.

    What is the same for all tokens is left out: the softmax does not see it.
    """
    products = scores_of(scratch, sizes, v, n, inside, FORM)
    if FORM.norm != FORM.klt:
        sigma, mu = tokens_of(frame, n, inside)
        if FORM.klt:
            rest, ones = (
                tl.load(frame.sides + 3 * v, mask=inside, other=0),
                tl.load(frame.sides + 3 * v + 1, mask=inside, other=0),
            )
            products = (products + rest) * sigma + mu * ones
        else:
            products = products * sigma + mu * info_of(scratch, TOTAL, v, inside)
    return products


@triton.jit
def attention_of(
    frame: Frame, sizes: Sizes, scratch: Scratch, q: tl.tensor, n: tl.tensor, inside: tl.tensor, FORM: tl.constexpr
) -> tl.tensor:
    """Softmax weights of queries ``q [Q, 1]``."""
    logits = attended(frame, sizes, scratch, q, n, inside, FORM)
    powers = tl.exp(logits - info_of(scratch, HIGHEST, q, inside)) * info_of(scratch, SHARE, q, inside)
    return tl.where(inside, powers, 0.0)


@triton.jit
def measure_softmax(frame: Frame, sizes: Sizes, scratch: Scratch, FORM: tl.constexpr, BACK: tl.constexpr) -> None:
    """Note each query's largest logit, one over its softmax's sum and, going back, the mean of weights' gradients."""
    room = FORM.places * sizes.room
    for first in range(sizes.origin, sizes.queries, FORM.rows):
        q = first + tl.arange(0, FORM.rows)
        highest = tl.full([FORM.rows], float("-inf"), tl.float32)
        total = tl.zeros([FORM.rows], tl.float32)
        level = tl.zeros([FORM.rows], tl.float32)
        for start in range(sizes.origin, room, NARROW):
            n = (start + tl.arange(0, NARROW))[None, :]
            is_token = (n < room) & (n % sizes.room < sizes.rows)
            inside = (q < sizes.queries)[:, None] & is_token
            logits = tl.where(is_token, attended(frame, sizes, scratch, q[:, None], n, inside, FORM), float("-inf"))
            above = tl.maximum(highest, tl.max(logits, 1))
            powers, less = tl.exp(logits - above[:, None]), tl.exp(highest - above)
            total = total * less + tl.sum(powers, 1)
            if BACK:
                context = sizes.queries + q % sizes.contexts
                gradient = attended(frame, sizes, scratch, context[:, None], n, inside, FORM)
                level = level * less + tl.sum(powers * gradient, 1)
            highest = above
        info = scratch.info + q
        tl.store(info + HIGHEST * scratch.length, highest, mask=q < sizes.queries)
        tl.store(info + SHARE * scratch.length, 1.0 / total, mask=q < sizes.queries)
        tl.store(info + LEVEL * scratch.length, level / total, mask=q < sizes.queries)


@triton.jit
def weights_of(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    r: tl.tensor,
    n: tl.tensor,
    inside: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> tl.tensor:
    """Of rows: the weights of the rows of codes, what these give the ones, and what the shift.

    Rows are, going back, the gradients of the queries' scores; then those of the contexts, and the mixing rows.
    """
    w, n = r // FORM.places, r % FORM.places * sizes.room + n
    pre = tl.zeros(inside.shape, tl.float32)
    c = w
    if BACK:
        is_query = inside & (w < sizes.queries)
        gradient = attended(frame, sizes, scratch, sizes.queries + w % tl.maximum(sizes.contexts, 1), n, is_query, FORM)
        pre = attention_of(frame, sizes, scratch, w, n, is_query, FORM) * (
            gradient - info_of(scratch, LEVEL, w, is_query)
        )
        c = w - sizes.queries
    is_context = inside & (c >= 0) & (c < sizes.contexts)
    for shared in range(0, sizes.queries // tl.maximum(sizes.contexts, 1)):
        pre += attention_of(frame, sizes, scratch, shared * sizes.contexts + c, n, is_context, FORM)
    is_mixing = inside & (c >= sizes.contexts)
    pre += tl.load(frame.mixing + (c - sizes.contexts) * (FORM.places * sizes.room) + n, mask=is_mixing, other=0)
    if FORM.klt:
        # normalised tokens have neither sigma nor mu
        sigma, mu = tokens_of(frame, n, is_mixing | (inside & (not FORM.norm)))
        shift = pre
        if FORM.norm:
            sigma, shift = tl.where(is_mixing, sigma, 1.0), tl.where(is_mixing, pre, 0.0)
        return pre * sigma, pre * mu, shift
    if FORM.norm:
        sigma, mu = tokens_of(frame, n, inside)
        return pre * tl.where(is_mixing, 1.0, sigma), pre * tl.where(is_mixing, frame.middle, mu), pre
    return pre, pre * 0, pre


@triton.jit
def weigh_rows(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    output: Output,
    count: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Split ``count`` rows of weights into parts; note their units and sums."""
    for first in range(sizes.origin, count, FORM.rows):
        r = first + tl.arange(0, FORM.rows)
        largest = tl.zeros([FORM.rows, NARROW], tl.float32)
        weight, ones, shift = largest, largest, largest
        for start in range(sizes.origin, sizes.rows, NARROW):
            n = (start + tl.arange(0, NARROW))[None, :]
            inside = (r < count)[:, None] & (n < sizes.rows)
            w, of_ones, of_shift = weights_of(frame, sizes, scratch, r[:, None], n, inside, FORM, BACK)
            largest = tl.maximum(largest, tl.abs(w))
            weight, ones, shift = weight + w, ones + of_ones, shift + of_shift
        sum_of_weights, sum_of_ones = tl.sum(weight, 1), tl.sum(ones, 1)
        unit = unit_of(tl.max(largest, 1) + sum_of_weights * 0, FORM.kind)
        info = scratch.info + r
        tl.store(info + WEIGHT_UNIT * scratch.length, unit, mask=r < count)
        tl.store(info + WEIGHT * scratch.length, sum_of_weights, mask=r < count)
        tl.store(info + ONES * scratch.length, sum_of_ones, mask=r < count)
        if FORM.klt:
            tl.store(output.sides + 3 * r, sum_of_weights, mask=r < count)
            tl.store(output.sides + 3 * r + 1, sum_of_ones, mask=r < count)
            tl.store(output.sides + 3 * r + 2, tl.sum(shift, 1), mask=r < count)
        for start in range(sizes.origin, sizes.rows, NARROW):
            n = (start + tl.arange(0, NARROW))[None, :]
            inside = (r < count)[:, None] & (n < sizes.rows)
            w, of_ones, of_shift = weights_of(frame, sizes, scratch, r[:, None], n, inside, FORM, BACK)
            place = scratch.weights + r[:, None] * sizes.room + n
            store_parts(w, unit, place, scratch.weight_step, inside, FORM.kind)


@triton.jit
def add_mixing_gradients(frame: Frame, sizes: Sizes, scratch: Scratch, output: Output, FORM: tl.constexpr) -> None:
    """Products of the mixed tokens' gradients with raw tokens, added to those of the program's frames before."""
    room = FORM.places * sizes.room
    for first in range(sizes.origin, sizes.mixers, FORM.rows):
        k = (first + tl.arange(0, FORM.rows))[:, None]
        v = sizes.queries + sizes.contexts + k
        for start in range(sizes.origin, room, NARROW):
            n = (start + tl.arange(0, NARROW))[None, :]
            inside = (k < sizes.mixers) & (n < room) & (n % sizes.room < sizes.rows)
            products = scores_of(scratch, sizes, v, n, inside, FORM)
            if FORM.klt:
                sigma, mu = tokens_of(frame, n, inside)
                sides = frame.sides + 3 * v
                is_row = k < sizes.mixers
                products = (products + tl.load(sides, mask=is_row, other=0)) * sigma
                products += mu * tl.load(sides + 1, mask=is_row, other=0) + tl.load(sides + 2, mask=is_row, other=0)
            elif FORM.norm:
                products += frame.middle * info_of(scratch, TOTAL, v, k < sizes.mixers)
            place = output.d_mixing + k * room + n
            products += tl.load(place, mask=inside & output.before, other=0)
            tl.store(place, products, mask=inside)
