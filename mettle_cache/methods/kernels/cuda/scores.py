"""The first pass over a frame: products of vectors with its rows of codes, and the tokens' statistics for a norm.

A row stands for ``z = scale * (code + zero)``, less the middle of ``scale * zero`` where a norm wants statistics: a
token's mean is not far from there, so that its squares don't cancel. Scores are ``z·v``. A vector of a layer with
places is P rows, one after the other. Shapes are those of form.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mettle_cache.methods.kernels.cuda.form import NARROW, SHIFT, TOKENS, TOTAL, UNIT, WIDE, Frame, Scratch, Sizes
from mettle_cache.methods.kernels.cuda.products import joined, multiply, no_sums, store_parts, take, unit_of


@triton.jit
def affine_of(frame: Frame, d: tl.tensor, width: tl.tensor, FORM: tl.constexpr) -> tl.tensor:
    """Scale and offset, which is ``scale * zero``, of components ``d``."""
    if FORM.scaled:
        scale = tl.load(frame.scale + d, mask=d < width, other=0).to(tl.float32)
        offset = scale * tl.load(frame.zero + d, mask=d < width, other=0).to(tl.float32)
    else:
        scale = (d < width).to(tl.float32)
        offset = tl.zeros_like(scale)
    return scale, offset


@triton.jit
def middle_of(frame: Frame, sizes: Sizes, FORM: tl.constexpr) -> tl.tensor:
    """The middle of a frame's offsets."""
    total = tl.zeros([WIDE], tl.float32)
    for j in range(sizes.origin, sizes.width, WIDE):
        _, offset = affine_of(frame, j + tl.arange(0, WIDE), sizes.width, FORM)
        total += offset
    return tl.sum(total, 0) / sizes.width


@triton.jit
def load_vectors(
    frame: Frame, sizes: Sizes, r: tl.tensor, d: tl.tensor, FORM: tl.constexpr, BACK: tl.constexpr
) -> tl.tensor:
    """Rows of the queries, then of the contexts' gradients, then of the mixed tokens' gradients."""
    row, column, inside = r[:, None], d[None, :], (d < sizes.width)[None, :]
    count = sizes.queries * FORM.places
    values = tl.load(frame.asked + row * sizes.width + column, mask=(row < count) & inside, other=0)
    if BACK:
        row -= count
        count = sizes.contexts * FORM.places
        place = frame.d_context + row.to(tl.int64) * frame.context_step + column
        values += tl.load(place, mask=(row >= 0) & (row < count) & inside, other=0)
        row -= count
        count = sizes.mixers * FORM.places
        place = frame.d_mixed + row * sizes.width + column
        values += tl.load(place, mask=(row >= 0) & (row < count) & inside, other=0)
    return values


@triton.jit
def prepare_vectors(
    frame: Frame, sizes: Sizes, scratch: Scratch, count: tl.tensor, FORM: tl.constexpr, BACK: tl.constexpr
) -> None:
    """Split ``count`` vectors, times the scales, into parts; note units, products with the offsets, and sums."""
    for first in range(sizes.origin, count, FORM.rows):
        r = first + tl.arange(0, FORM.rows)
        largest = tl.zeros([FORM.rows, NARROW], tl.float32)
        shift = tl.zeros([FORM.rows, NARROW], tl.float32)
        total = tl.zeros([FORM.rows, NARROW], tl.float32)
        for j in range(sizes.origin, sizes.width, NARROW):
            d = j + tl.arange(0, NARROW)
            values = load_vectors(frame, sizes, r, d, FORM, BACK)
            scale, offset = affine_of(frame, d, sizes.width, FORM)
            largest = tl.maximum(largest, tl.abs(values * scale[None, :]))
            shift += values * (offset - frame.middle)[None, :]
            total += values
        summed = tl.sum(total, 1)
        # what is not a number stays so
        unit = unit_of(tl.max(largest, 1) + summed * 0, FORM.kind)
        info = scratch.info + r
        tl.store(info + UNIT * scratch.length, unit, mask=r < count)
        tl.store(info + SHIFT * scratch.length, tl.sum(shift, 1), mask=r < count)
        tl.store(info + TOTAL * scratch.length, summed, mask=r < count)
        for j in range(sizes.origin, sizes.width, NARROW):
            d = j + tl.arange(0, NARROW)
            scale, offset = affine_of(frame, d, sizes.width, FORM)
            values = load_vectors(frame, sizes, r, d, FORM, BACK) * scale[None, :]
            place = scratch.vectors + r[:, None] * sizes.width + d[None, :]
            mask = (r < count)[:, None] & (d < sizes.width)[None, :]
            store_parts(values, unit, place, scratch.vector_step, mask, FORM.kind)


@triton.jit
def score_plane(
    sums: tl.tuple,
    moments: tl.tuple,
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    r: tl.tensor,
    count: tl.tensor,
    n: tl.tensor,
    start: tl.tensor,
    component: tl.tensor,
    size: tl.tensor,
    BITS: tl.constexpr,
    FOUND: tl.constexpr,
    FORM: tl.constexpr,
) -> tl.tensor:
    """Add what a plane gives, whose bytes start at ``start`` of a row and its components at ``component``."""
    STEP: tl.constexpr = max((WIDE >> FORM.kind) * BITS // 8, 32)
    rows = frame.codes + n[:, None] * sizes.stride + start
    vectors = scratch.vectors + r[:, None] * sizes.width + component
    for j in range(sizes.origin, size, STEP):
        b = j + tl.arange(0, STEP)
        raw = tl.load(rows + b[None, :], mask=(n < sizes.rows)[:, None] & (b < size)[None, :], other=0)
        mask = (r < count)[:, None] & (b < size)[None, :]
        # all places at once would not fit the registers
        for pair in range(0, 8 // BITS, 2):
            for place in tl.static_range(0, min(2, 8 // BITS)):
                codes = take(raw, pair + place, BITS, FORM.kind, FORM.klt)
                first = (pair + place) * size
                parts = vectors + (first + b)[None, :]
                sums = multiply(sums, parts, scratch.vector_step, mask, tl.trans(codes), FORM.kind)
                if FOUND:
                    d = tl.where(b < size, component + first + b, sizes.width)
                    scale, offset = affine_of(frame, d, sizes.width, FORM)
                    away = tl.where(d < sizes.width, offset - frame.middle, 0.0)
                    value = codes.to(tl.float32) * scale[None, :] + away[None, :]
                    moments = (moments[0] + tl.sum(value, 1), moments[1] + tl.sum(value * value, 1))
    return sums, moments


@triton.jit
def score_rows(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    eps: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    FOUND: tl.constexpr,
    FORM: tl.constexpr,
) -> None:
    """Scores of the vectors from ``first`` on, as many as a tile has rows; and, if FOUND, statistics."""
    r = first + tl.arange(0, FORM.rows)
    info = scratch.info + r
    unit = tl.load(info + UNIT * scratch.length, mask=r < count, other=0)[:, None]
    shift = tl.load(info + SHIFT * scratch.length, mask=r < count, other=0)[:, None]
    for start in range(sizes.origin, sizes.rows, TOKENS):
        n = start + tl.arange(0, TOKENS)
        sums = no_sums(FORM.rows, TOKENS, FORM.kind)
        moments = (tl.zeros([TOKENS], tl.float32), tl.zeros([TOKENS], tl.float32))
        known = (frame, sizes, scratch, r, count, n)
        if FORM.klt:
            p8, p4, p2, p1 = sizes.plane8, sizes.plane4, sizes.plane2, sizes.plane1
            sums, moments = score_plane(sums, moments, *known, 0, 0, p8, 8, FOUND, FORM)
            sums, moments = score_plane(sums, moments, *known, p8, p8, p4, 4, FOUND, FORM)
            at, component = p8 + p4, p8 + 2 * p4
            sums, moments = score_plane(sums, moments, *known, at, component, p2, 2, FOUND, FORM)
            at, component = at + p2, component + 4 * p2
            sums, moments = score_plane(sums, moments, *known, at, component, p1, 1, FOUND, FORM)
        else:
            sums, moments = score_plane(sums, moments, *known, 0, 0, sizes.stride, FORM.bits, FOUND, FORM)
        scores = joined(sums, FORM.kind) * unit + shift
        # a row of a vector's place p goes to the tokens from p S on
        place = scratch.scores + r[:, None] * sizes.room + n[None, :]
        tl.store(place, scores, mask=(r < count)[:, None] & (n < sizes.rows)[None, :])
        if FOUND:
            mean = moments[0] / sizes.width
            rstd = 1.0 / tl.sqrt(tl.maximum(moments[1] / sizes.width - mean * mean, 0.0) + eps)
            tl.store(frame.sigma + n, rstd, mask=n < sizes.rows)
            tl.store(frame.mu + n, -mean * rstd, mask=n < sizes.rows)
