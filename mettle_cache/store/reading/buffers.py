"""Memory for batches of stored tokens: allocated once, filled by many threads, reused for the next batch."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mettle_cache.store.format.digests import CRC_BYTES
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.tokens import LayerTokens, TokenBatch

# every tensor starts on a boundary that vector loads, DMA and GPU kernels like
_ALIGNMENT = 512


Allocate = Callable[[int], Tensor]
# a layer's tokens from its name and its stored arrays
Assemble = Callable[[str, Mapping[str, Tensor]], LayerTokens]


def new_memory(nbytes: int) -> Tensor:
    """``[nbytes]`` uint8, not initialised."""
    return torch.empty(nbytes, dtype=torch.uint8)


def pinned_memory(nbytes: int) -> Tensor:
    """The same with its pages locked, so that a GPU can fetch the whole in one asynchronous transfer."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


@dataclass(frozen=True)
class BlockRun:
    """Blocks that follow one another in an array's shards, and so are read in one go."""

    array: ArrayLayout
    blocks: range

    @cached_property
    def offset(self) -> int:
        return self.array.chunk_offset(self.blocks.start)

    @cached_property
    def single_blocks(self) -> tuple[BlockRun, ...]:
        """The same blocks as runs of one."""
        return tuple(BlockRun(self.array, range(block, block + 1)) for block in self.blocks)

    @cached_property
    def nbytes(self) -> int:
        """Bytes on disk, checksums included."""
        return len(self.blocks) * (self.array.chunk_bytes + CRC_BYTES)


def block_runs(layout: Sequence[ArrayLayout], names: Sequence[str]) -> list[BlockRun]:
    """What to read of each shard to get the layers ``names``."""
    chosen = set(names)
    runs = []
    for array in layout:
        blocks = [block for block, layer in enumerate(array.layers) if layer.name in chosen]
        for _, members in groupby(enumerate(blocks), lambda pair: pair[1] - pair[0]):
            run = [block for _, block in members]
            runs.append(BlockRun(array, range(run[0], run[-1] + 1)))
    return runs


@dataclass(frozen=True)
class _Place:
    """Where one chunk of every clip of the batch lies in the buffer's memory."""

    array: ArrayLayout
    block: int
    offset: int


class BatchBuffer:
    """One piece of memory for up to ``size`` clips, cut into tensors ``[size, T, N, *]``.

    ``assemble`` makes tokens of a layer's tensors; ``allocate`` gives that many bytes, by default new ones.
    """

    def __init__(
        self, runs: Sequence[BlockRun], size: int, assemble: Assemble, *, allocate: Allocate = new_memory
    ) -> None:
        self._assemble = assemble
        self.runs = tuple(runs)
        self.size = size
        self._places: dict[tuple[str, int], _Place] = {}
        end = 0
        for run in self.runs:
            for block in run.blocks:
                self._places[run.array.name, block] = _Place(run.array, block, end)
                end += -(-size * run.array.chunk_bytes // _ALIGNMENT) * _ALIGNMENT
        self.memory = allocate(end)
        self._bytes: memoryview = self.memory.numpy().data
        # the checksums between the chunks on disk
        self._checksums = memoryview(bytearray(CRC_BYTES * size * len(self._places)))
        self._order = {place: number for number, place in enumerate(self._places)}
        self._targets: dict[tuple[str, range, int], list[memoryview]] = {}
        self._tensors = self._cut(self.memory)

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    def chunk(self, array: ArrayLayout, block: int, slot: int) -> memoryview:
        """The memory of one chunk of the clip in ``slot``."""
        start = self._places[array.name, block].offset + slot * array.chunk_bytes
        return self._bytes[start : start + array.chunk_bytes]

    def checksum(self, array: ArrayLayout, block: int, slot: int) -> memoryview:
        """The 4 bytes that were read behind that chunk."""
        start = (self._order[array.name, block] * self.size + slot) * CRC_BYTES
        return self._checksums[start : start + CRC_BYTES]

    def targets(self, run: BlockRun, slot: int) -> list[memoryview]:
        """Where the bytes of a run go: chunk, checksum, chunk, checksum, ..."""
        key = (run.array.name, run.blocks, slot)
        views = self._targets.get(key)
        if views is None:
            views = self._targets[key] = []
            for block in run.blocks:
                views += [self.chunk(run.array, block, slot), self.checksum(run.array, block, slot)]
        return views

    def batch(self, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The first ``len(clips)`` slots as a batch; views, no copies."""
        return self._as_batch(self._tensors, clips, names)

    def batch_in(self, memory: Tensor, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The same views of a copy of :attr:`memory`, on another device for example."""
        return self._as_batch(self._cut(memory), clips, names)

    def _cut(self, memory: Tensor) -> dict[str, dict[str, Tensor]]:
        tensors: dict[str, dict[str, Tensor]] = {}
        for place in self._places.values():
            array = place.array
            dtype = getattr(torch, array.dtype)
            flat = memory[place.offset : place.offset + self.size * array.chunk_bytes].view(dtype)
            layer = array.layers[place.block]
            tensors.setdefault(layer.name, {})[array.part] = flat.view(self.size, *array.chunk_shape)
        return tensors

    def _as_batch(
        self, tensors: dict[str, dict[str, Tensor]], clips: Sequence[int], names: Sequence[str]
    ) -> TokenBatch:
        count = len(clips)
        return TokenBatch(
            {
                name: self._assemble(name, {part: whole[:count] for part, whole in tensors[name].items()})
                for name in names
            },
            tuple(clips),
        )


class SpareMemory:
    """Keeps memory from one epoch to the next: new pages cost as much as reading into them.

    It lends memory, and takes it back by itself when the last tensor in it is gone, so memory that is still in use is
    never lent twice. Spare memory is kept for a request that fits into it, and freed when one comes that does not: so
    no more is held than was in use at once. Thread-safe.
    """

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []
        self._open = True
        # taken again by a thread that holds it, when the collector frees memory in the middle of take()
        self._lock = threading.RLock()

    @property
    def spare_bytes(self) -> int:
        """Bytes that are kept and not in use."""
        with self._lock:
            return sum(map(len, self._spare))

    def take(self, nbytes: int) -> Tensor:
        """``[nbytes]`` uint8, not initialised."""
        with self._lock:
            self._open = True
            piece = min((spare for spare in self._spare if len(spare) >= nbytes), key=len, default=None)
            self._spare = [] if piece is None else [spare for spare in self._spare if spare is not piece]
        if piece is None:
            piece = _map_memory(nbytes)
        # every tensor made of this view holds the view, so its end is theirs
        view = np.frombuffer(piece, np.uint8, nbytes)
        weakref.finalize(view, self._take_back, piece).atexit = False
        return torch.from_numpy(view)

    def close(self) -> None:
        """Free spare memory, and lent memory when it comes back; more can be taken afterwards."""
        with self._lock:
            self._open = False
            self._spare = []

    def _take_back(self, piece: mmap.mmap) -> None:
        with self._lock:
            if self._open:
                self._spare.append(piece)


def _map_memory(nbytes: int) -> mmap.mmap:
    """Memory that starts on a page; of large pages, which take half the time to get, where the system has them."""
    piece = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # a kernel that was built without them refuses the advice
        with suppress(OSError):
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece
