"""The second pass over a frame, and the kernel: a program pools some frames of a layer, one after the other.

The second pass adds up a frame's rows of codes under all weights: contexts, mixed tokens, which ride along as further
rows, and the queries' gradients. What goes from one step of a frame to the next lies in the program's own memory, which
stays in the GPU's cache; so do the codes between the two passes. Nothing is added by two programs to the same place.
Shapes are those of form.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mettle_cache.methods.kernels.cuda.form import (
    ONES,
    TOKENS,
    WEIGHT,
    WEIGHT_UNIT,
    WIDE,
    Frame,
    Output,
    Scratch,
    Sizes,
)
from mettle_cache.methods.kernels.cuda.products import joined, multiply, no_sums, take
from mettle_cache.methods.kernels.cuda.scores import affine_of, middle_of, prepare_vectors, score_rows
from mettle_cache.methods.kernels.cuda.weights import add_mixing_gradients, info_of, measure_softmax, weigh_rows


@triton.jit
def write_sums(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    output: Output,
    sums: tl.tuple,
    r: tl.tensor,
    count: tl.tensor,
    d: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Turn sums of codes ``[W, D]`` into sums of rows, or of tokens, and store them."""
    scale, offset = affine_of(frame, d, sizes.width, FORM)
    inside, row = r < count, r[:, None]
    weight, unit = info_of(scratch, WEIGHT, r, inside), info_of(scratch, WEIGHT_UNIT, r, inside)
    values = joined(sums, FORM.kind) * unit[:, None] * scale[None, :]
    values += weight[:, None] * (offset - frame.middle)[None, :]
    if not FORM.klt:
        values += info_of(scratch, ONES, r, inside)[:, None]
    mask = inside[:, None] & (d < sizes.width)[None, :]
    place = row * sizes.width + d[None, :]
    queries = sizes.queries * FORM.places
    if BACK:
        is_query = mask & (row < queries)
        gradient = values
        if FORM.shared:
            gradient += tl.load(output.d_queries + place, mask=is_query & output.before, other=0)
        tl.store(output.d_queries + place, gradient, mask=is_query)
        mask = mask & (row >= queries)
        place -= queries * sizes.width
    tl.store(output.sums + place, values, mask=mask)


@triton.jit
def sum_plane(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    output: Output,
    r: tl.tensor,
    count: tl.tensor,
    start: tl.tensor,
    component: tl.tensor,
    size: tl.tensor,
    BITS: tl.constexpr,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Sums of the components of a plane, whose bytes start at ``start`` of a row and components at ``component``."""
    STEP: tl.constexpr = max((WIDE >> FORM.kind) * 16 // FORM.rows * BITS // 8, 16)
    for j in range(sizes.origin, size, STEP):
        b = j + tl.arange(0, STEP)
        d = tl.where(b < size, component + b, sizes.width)
        # two codes of a byte at a time
        for place in range(0, 8 // BITS, 2):
            sums, others = no_sums(FORM.rows, STEP, FORM.kind), no_sums(FORM.rows, STEP, FORM.kind)
            for first in range(sizes.origin, sizes.rows, TOKENS):
                n = first + tl.arange(0, TOKENS)
                codes = frame.codes + n[:, None] * sizes.stride + start + b[None, :]
                raw = tl.load(codes, mask=(n < sizes.rows)[:, None] & (b < size)[None, :], other=0)
                parts = scratch.weights + r[:, None] * sizes.room + n[None, :]
                mask = (r < count)[:, None] & (n < sizes.rows)[None, :]
                sums = multiply(
                    sums, parts, scratch.weight_step, mask, take(raw, place, BITS, FORM.kind, FORM.klt), FORM.kind
                )
                if BITS < 8:
                    codes = take(raw, place + 1, BITS, FORM.kind, FORM.klt)
                    others = multiply(others, parts, scratch.weight_step, mask, codes, FORM.kind)
            known = (r, count)
            at = tl.where(b < size, d + place * size, sizes.width)
            write_sums(frame, sizes, scratch, output, sums, *known, at, FORM, BACK)
            if BITS < 8:
                at = tl.where(b < size, d + (place + 1) * size, sizes.width)
                write_sums(frame, sizes, scratch, output, others, *known, at, FORM, BACK)


@triton.jit
def sum_rows(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    output: Output,
    count: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Add up the frame's rows of codes under ``count`` rows of weights."""
    for first in range(sizes.origin, count, FORM.rows):
        r = first + tl.arange(0, FORM.rows)
        known = (frame, sizes, scratch, output, r, count)
        if FORM.klt:
            p8, p4, p2, p1 = sizes.plane8, sizes.plane4, sizes.plane2, sizes.plane1
            sum_plane(*known, 0, 0, p8, 8, FORM, BACK)
            sum_plane(*known, p8, p8, p4, 4, FORM, BACK)
            sum_plane(*known, p8 + p4, p8 + 2 * p4, p2, 2, FORM, BACK)
            sum_plane(*known, p8 + p4 + p2, p8 + 2 * p4 + 4 * p2, p1, 1, FORM, BACK)
        else:
            sum_plane(*known, 0, 0, sizes.stride, FORM.bits, FORM, BACK)


@triton.jit
def pool_frame(
    frame: Frame,
    sizes: Sizes,
    scratch: Scratch,
    output: Output,
    eps: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Pool one frame; the threads of a program wait for each other between steps, which read what others wrote."""
    FOUND: tl.constexpr = FORM.norm and not FORM.klt
    if FOUND:
        frame = Frame(*frame[:-1], middle_of(frame, sizes, FORM))
    rows = sizes.contexts + sizes.mixers
    vectors, weights = sizes.queries * FORM.places, rows * FORM.places
    if BACK:
        vectors += rows * FORM.places
        weights += sizes.queries * FORM.places
    prepare_vectors(frame, sizes, scratch, vectors, FORM, BACK)
    tl.debug_barrier()
    begin = sizes.origin
    if FOUND:
        score_rows(frame, sizes, scratch, eps, begin, vectors, True, FORM)
        begin += FORM.rows
    if FORM.many or not FOUND:
        for first in range(begin, vectors, FORM.rows):
            score_rows(frame, sizes, scratch, eps, first, vectors, False, FORM)
    tl.debug_barrier()
    measure_softmax(frame, sizes, scratch, FORM, BACK)
    if BACK:
        add_mixing_gradients(frame, sizes, scratch, output, FORM)
    tl.debug_barrier()
    weigh_rows(frame, sizes, scratch, output, weights, FORM, BACK)
    tl.debug_barrier()
    sum_rows(frame, sizes, scratch, output, weights, FORM, BACK)
    # the next frame writes where this one was read
    tl.debug_barrier()
