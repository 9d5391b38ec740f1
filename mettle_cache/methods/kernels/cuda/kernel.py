"""The kernel: each program pools some frames of one of a stage's layers. One launch is for all layers of the stage.

Each layer's arrays stay where they are. Their addresses are arguments, so that a captured graph holds them. Shapes are
those of form.py; B blocks (the stage's layers), G programs of each.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from mettle_cache.methods.kernels.cuda.form import INFO, Frame, Output, Scratch, Sizes
from mettle_cache.methods.kernels.cuda.frames import pool_frame


class Block(NamedTuple):
    """A layer's arrays, contiguous in memory but for ``d_context`` and ``d_mixed``; a kernel reads those that it has.

    ``codes [F, R, stride]``; ``scale`` and ``zero [F, M]`` or ``[M]``; ``asked [Q P, M]`` or ``[F, Q P, M]``;
    ``d_context [F, C P, M]``; ``d_mixed [F, K P, M]``; ``mixing [K, P S]``; ``sigma`` and ``mu [F, P S]``; ``sides [F,
    V, 3]``.
    """

    codes: tl.tensor
    scale: tl.tensor
    zero: tl.tensor
    asked: tl.tensor
    d_context: tl.tensor
    d_mixed: tl.tensor
    mixing: tl.tensor
    sigma: tl.tensor
    mu: tl.tensor
    sides: tl.tensor


class Strides(NamedTuple):
    """How far apart rows and frames of ``d_context`` are, and frames of ``d_mixed``."""

    context_row: tl.tensor
    context_frame: tl.tensor
    mixed_frame: tl.tensor


class Results(NamedTuple):
    """``sums [B, F, (C + K) P, M]``, and what else there is of ``klt`` and going back.

    ``sides [B, F, W P, 3]``; ``d_queries [B, F, Q P, M]``, or ``[B, G, Q P, M]`` where all frames share the queries;
    ``d_mixing [B, G, K, P S]``.
    """

    sums: tl.tensor
    sides: tl.tensor
    d_queries: tl.tensor
    d_mixing: tl.tensor


class Memory(NamedTuple):
    """The scratch memory of all programs: parts of vectors and of weights, scores, statistics ``[2, S]``, numbers."""

    vectors: tl.tensor
    weights: tl.tensor
    scores: tl.tensor
    statistics: tl.tensor
    info: tl.tensor
    length: tl.tensor


@triton.jit
def choose_block(blocks: tl.tuple, b: tl.tensor) -> Block:
    """Block ``b``, which is known at run time alone, as no index of a tuple may be."""
    chosen: Block = blocks[0]
    for i in tl.static_range(1, len(blocks)):
        one, is_it = blocks[i], b == i
        chosen = Block(
            tl.where(is_it, one.codes, chosen.codes),
            tl.where(is_it, one.scale, chosen.scale),
            tl.where(is_it, one.zero, chosen.zero),
            tl.where(is_it, one.asked, chosen.asked),
            tl.where(is_it, one.d_context, chosen.d_context),
            tl.where(is_it, one.d_mixed, chosen.d_mixed),
            tl.where(is_it, one.mixing, chosen.mixing),
            tl.where(is_it, one.sigma, chosen.sigma),
            tl.where(is_it, one.mu, chosen.mu),
            tl.where(is_it, one.sides, chosen.sides),
        )
    return chosen


@triton.jit
def find_frame(
    block: Block,
    statistics: tl.tensor,
    f: tl.tensor,
    vectors: tl.tensor,
    sizes: Sizes,
    strides: Strides,
    FORM: tl.constexpr,
) -> Frame:
    """Where the arrays of frame ``f`` are; what belongs to the layer is in the same place for all frames."""
    codes = block.codes + f * (sizes.rows * sizes.stride)
    scale, zero = block.scale, block.zero
    if FORM.scaled and not FORM.klt:
        scale, zero = scale + f * sizes.width, zero + f * sizes.width
    asked = block.asked
    if not FORM.shared:
        asked += f * (sizes.queries * FORM.places * sizes.width)
    d_context, d_mixed = block.d_context + f * strides.context_frame, block.d_mixed + f * strides.mixed_frame
    sigma, mu, sides = statistics, statistics + sizes.room, block.sides
    if FORM.klt:
        tokens = f * (FORM.places * sizes.room)
        sigma, mu, sides = block.sigma + tokens, block.mu + tokens, sides + f * (3 * vectors)
    step = strides.context_row
    return Frame(codes, scale, zero, asked, d_context, step, d_mixed, block.mixing, sigma, mu, sides, 0.0)


@triton.jit
def find_memory(
    memory: Memory, vectors: tl.tensor, weights: tl.tensor, sizes: Sizes, PARTS: tl.constexpr, FORM: tl.constexpr
) -> Scratch:
    """A program's own part of the scratch memory, for so many vectors and rows of weights."""
    program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
    vector_step, weight_step = vectors * FORM.places * sizes.width, weights * FORM.places * sizes.room
    return Scratch(
        memory.vectors + program * (PARTS * vector_step),
        vector_step,
        memory.weights + program * (PARTS * weight_step),
        weight_step,
        memory.scores + program * (vectors * FORM.places * sizes.room),
        memory.info + program * (INFO * memory.length),
        memory.length,
    )


@triton.jit
def find_output(
    results: Results,
    place: tl.tensor,
    program: tl.tensor,
    before: tl.tensor,
    sizes: Sizes,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> Output:
    """Where the results of a frame go, which is number ``place`` of all layers' frames."""
    rows = sizes.contexts + sizes.mixers
    weights = rows
    if BACK:
        weights += sizes.queries
    d_place = program if FORM.shared else place
    return Output(
        results.sums + place * (rows * FORM.places * sizes.width),
        results.sides + place * (weights * FORM.places * 3),
        results.d_queries + d_place * (sizes.queries * FORM.places * sizes.width),
        results.d_mixing + program * (sizes.mixers * FORM.places * sizes.room),
        before,
    )


@triton.jit(do_not_specialize=["frames", "step", "eps"])
def pool_frames(
    blocks: tl.tuple,
    nothing: tl.tensor,
    results: tl.tuple,
    memory: tl.tuple,
    sizes: tl.tuple,
    strides: tl.tuple,
    frames: tl.tensor,
    step: tl.tensor,
    eps: tl.tensor,
    FORM: tl.constexpr,
    BACK: tl.constexpr,
) -> None:
    """Pool the F ``frames`` of B ``blocks``, ``step`` of them in each program ``(g, b)`` of the grid ``(G, B)``.

    ``nothing [1]`` holds 0, where the compiler cannot see it (:class:`Sizes`).
    """
    g, b = tl.program_id(0), tl.program_id(1)
    program = (b * tl.num_programs(0) + g).to(tl.int64)
    vectors, weights = sizes.queries, sizes.contexts + sizes.mixers
    if BACK:
        vectors += sizes.contexts + sizes.mixers
        weights += sizes.queries
    scratch = find_memory(memory, vectors, weights, sizes, 3 - FORM.kind, FORM)
    statistics = memory.statistics + program * (2 * sizes.room)
    first = g * step
    f = first
    while f < tl.minimum(first + step, frames):
        number = f.to(tl.int64)
        output = find_output(results, b.to(tl.int64) * frames + number, program, f > first, sizes, FORM, BACK)
        origin = tl.multiple_of(tl.load(nothing), 128)
        now = Sizes(origin, *sizes[1:])
        # found again for each frame, for the same reason as the origin
        block = choose_block(blocks, b + origin)
        frame = find_frame(block, statistics, number, vectors, now, strides, FORM)
        pool_frame(frame, now, scratch, output, eps, FORM, BACK)
        f += 1
