"""From tensors to a launch of the kernel, and back.

Shapes are those of form.py; B blocks (layers of a stage), G programs of each.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from mettle_cache.methods.kernels.cuda.form import BYTES, HALVES, INFO, Form, Sizes
from mettle_cache.methods.kernels.cuda.kernel import Block, Memory, Results, Strides, pool_frames

# by kind
PART_TYPES = (torch.int8, torch.float16)
# rows of a tile of products: more are taken a tile at a time
TILE_ROWS = (16, 32)
# registers of a thread; told of none, the assembler now and then takes 128 or 168 and spills
REGISTERS = 255
ROOM_STEP = 16
# programs that a multiprocessor runs at once, and the share of the GPU's cache that their frames may fill
PROGRAMS, CACHE_SHARE = 2, 0.6
# of what runs the kernels without a GPU, in tests
PROGRAMS_WITHOUT_GPU = 2


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """What is pooled: Q, C, K, R, P and M, the kind of the codes, and which way.

    Attributes
    ----------
    bits, planes
        Of a code; or, of ``klt`` alone, 0 and the bytes of its planes of 8, 4, 2 and 1 bits.
    scaled, norm, shared
        As of :class:`~mettle_cache.methods.kernels.cuda.form.Form`.
    eps
        Of the norm.
    back
        Whether gradients are wanted, and not what was pooled alone.
    """

    queries: int
    contexts: int
    mixers: int
    rows: int
    width: int
    places: int = 1
    bits: int = 0
    planes: tuple[int, ...] = (0, 0, 0, 0)
    scaled: bool = True
    norm: bool = False
    shared: bool = True
    eps: float = 0.0
    back: bool = False

    @property
    def klt(self) -> bool:
        """As of ``Form``."""
        return self.bits == 0

    @property
    def room(self) -> int:
        """S."""
        return room_for(self.rows)

    @property
    def vectors(self) -> int:
        """V: queries and, going back, the gradients of contexts and mixed tokens."""
        return self.queries + (self.contexts + self.mixers if self.back else 0)

    @property
    def weights(self) -> int:
        """W: contexts, mixing rows and, going back, the gradients of the queries' scores."""
        return self.contexts + self.mixers + (self.queries if self.back else 0)

    @property
    def tile(self) -> int:
        """Rows of a tile."""
        return next((size for size in TILE_ROWS if self._most <= size), TILE_ROWS[-1])

    def form(self, codes: torch.dtype) -> Form:
        """The kernel's code for such codes."""
        flags = (self.bits, self.scaled, self.norm, self.klt, self.shared, self.tile, self._most > self.tile)
        return Form(kind_of(codes), *map(tl.constexpr, (*flags, self.places)))

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler: with these, nothing of a stage's kernels leaves the registers (test_compiled.py).

        Planes leave no room for tiles that are fetched ahead.
        """
        wide = self.bits < 8 or self.tile > TILE_ROWS[0]
        return {"num_warps": 8 if wide else 4, "num_stages": 1 if self.klt else 2, "maxnreg": REGISTERS}

    @property
    def _most(self) -> int:
        return max(self.vectors, self.weights) * self.places


@dataclass(frozen=True)
class Pooled:
    """``sums [B, F, (C + K) P, M]`` and ``sides [B, F, W P, 3]``; going back, also gradients.

    ``d_mixing`` is ``[B, K, P S]``; ``d_queries`` are ``[B, F, Q P, M]``, or ``[B, Q P, M]`` where frames share them.
    """

    sums: Tensor
    sides: Tensor
    d_queries: Tensor
    d_mixing: Tensor


class Launch(NamedTuple):
    """What goes to the kernel."""

    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    options: dict[str, int]


def room_for(rows: int) -> int:
    """S: so many rows, and what makes them a multiple of 16."""
    return -(-rows // ROOM_STEP) * ROOM_STEP


def kind_of(codes: torch.dtype) -> tl.constexpr:
    """The parts in which factors of such codes are multiplied."""
    return HALVES if codes.is_floating_point else BYTES


def pool_blocks(blocks: Sequence[Block], pooling: Pooling) -> Pooled:
    """Pool the layers of a stage, all of the same shapes and strides, in one launch."""
    launch = prepare(blocks, pooling)
    pool_frames[launch.grid](*launch.arguments, **launch.options)
    results: Results = launch.arguments[2]
    # a fixed number of addends in a fixed order: the same bits every time
    d_queries = results.d_queries.sum(1) if pooling.shared else results.d_queries
    return Pooled(results.sums, results.sides, d_queries, results.d_mixing.sum(1))


def prepare(blocks: Sequence[Block], pooling: Pooling) -> Launch:
    """Everything of a launch but the launch: results, memory and numbers."""
    first = blocks[0]
    frames, device = len(first.codes), first.codes.device
    groups = group_count(first.codes, len(blocks))
    step = -(-frames // groups)
    groups = -(-frames // step)
    results = make_results(pooling, len(blocks), frames, groups, device)
    memory = make_memory(pooling, groups * len(blocks), first.codes)
    sizes = Sizes(
        *(0, pooling.queries, pooling.contexts, pooling.mixers, pooling.rows, pooling.room, pooling.width),
        *(first.codes.stride(1), *pooling.planes),
    )
    strides = Strides(0, 0, 0)
    if pooling.back:
        strides = Strides(first.d_context.stride(1), first.d_context.stride(0), first.d_mixed.stride(0))
    numbers = (memory, sizes, strides, frames, step, pooling.eps, pooling.form(first.codes.dtype), pooling.back)
    return Launch(
        (groups, len(blocks)),
        (tuple(blocks), _nothing(device), results, *numbers),
        pooling.options,
    )


def make_results(pooling: Pooling, blocks: int, frames: int, groups: int, device: torch.device) -> Results:
    """Memory for sums, sides, and the gradients of queries and mixing rows."""
    places, back = pooling.places, pooling.back
    shapes = (
        (blocks, frames, (pooling.contexts + pooling.mixers) * places, pooling.width),
        (blocks, frames, pooling.weights * places if pooling.klt else 0, 3),
        (blocks, (groups if pooling.shared else frames) if back else 0, pooling.queries * places, pooling.width),
        (blocks, groups if back else 0, pooling.mixers, places * pooling.room),
    )
    return Results(*(torch.empty(shape, dtype=torch.float32, device=device) for shape in shapes))


def make_memory(pooling: Pooling, programs: int, codes: Tensor) -> Memory:
    """Scratch memory for so many programs."""
    kind = kind_of(codes.dtype).value
    parts, room = 3 - kind, pooling.places * pooling.room
    vectors, weights = pooling.vectors, pooling.weights
    length = max(vectors, weights) * pooling.places

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(programs, *shape, dtype=dtype, device=codes.device)

    return Memory(
        empty(parts, vectors, pooling.places * pooling.width, dtype=PART_TYPES[kind]),
        empty(parts, weights, room, dtype=PART_TYPES[kind]),
        empty(vectors, room),
        empty(2, pooling.room if pooling.norm and not pooling.klt else 0),
        empty(INFO.value, length),
        length,
    )


def group_count(codes: Tensor, blocks: int) -> int:
    """G: as many programs as fill the GPU, unless their frames would push each other out of its cache."""
    frames, frame_bytes = len(codes), max(codes[0].nbytes, 1)
    processors, cache = _machine(codes.device)
    fitting = int(CACHE_SHARE * cache / (processors * frame_bytes))
    return min(max(processors * min(max(fitting, 1), PROGRAMS) // blocks, 1), frames)


@functools.cache
def _machine(device: torch.device) -> tuple[int, int]:
    """Multiprocessors and bytes of cache."""
    if device.type != "cuda":
        return PROGRAMS_WITHOUT_GPU, 0
    found = torch.cuda.get_device_properties(device)
    return found.multi_processor_count, found.L2_cache_size


@functools.cache
def _nothing(device: torch.device) -> Tensor:
    """``[1]``: 0. It stays, because captured graphs keep its address."""
    return torch.zeros(1, dtype=torch.int32, device=device)
