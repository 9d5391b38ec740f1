"""Memory for batches of stored tokens: allocated once, filled by many threads, reused for the next batch."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.store.format.codecs import CodecArray
from mettle_cache.store.format.digests import CRC_BYTES
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.tokens import LayerTokens, TokenBatch

# every tensor starts on a boundary that vector loads, DMA and GPU kernels like
_ALIGNMENT = 512
# what stays in the processor's cache between the read and the checksum; smaller pieces take more calls
_PIECE_BYTES = 512 << 10


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

    def offset(self, clip: int) -> int:
        """Where the run of a clip begins in its shard."""
        return self.array.chunk_offset(clip, self.blocks.start)

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
    """Where a field of a block lies in the buffer's memory: that of every clip of the batch, one after the other."""

    layer: str
    field: CodecArray
    offset: int
    nbytes: int


class Target(NamedTuple):
    """Where some bytes of a run go; ``is_checksum`` for those that end a chunk."""

    memory: memoryview
    is_checksum: bool


class Piece:
    """Bytes of a run that are read in one go, and where they go: field, field, ..., checksum, next block."""

    __slots__ = ("memory", "nbytes", "targets")

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self.memory = [target.memory for target in targets]
        self.nbytes = sum(map(len, self.memory))


class BatchBuffer:
    """One piece of memory for up to ``size`` clips, cut into tensors ``[size, T, N, *]``.

    The fields of a chunk go to tensors of their own. ``assemble`` makes tokens of a layer's tensors; ``allocate`` gives
    that many bytes, by default new ones. Runs are named by their position among ``runs``.
    """

    def __init__(
        self, runs: Sequence[BlockRun], size: int, assemble: Assemble, *, allocate: Allocate = new_memory
    ) -> None:
        self._assemble = assemble
        self.runs = tuple(runs)
        self.size = size
        self._places: list[list[list[_Place]]] = []
        end = 0
        for run in self.runs:
            self._places.append([])
            for block in run.blocks:
                places = []
                for field, nbytes in zip(run.array.fields, run.array.field_bytes, strict=True):
                    places.append(_Place(run.array.layers[block].name, field, end, nbytes))
                    end += -(-size * nbytes // _ALIGNMENT) * _ALIGNMENT
                self._places[-1].append(places)
        self.memory = allocate(end)
        self._bytes: memoryview = self.memory.numpy().data
        chunks = [len(run.blocks) for run in self.runs]
        self._first_chunk = list(accumulate(chunks, initial=0))
        # the checksums between the chunks on disk
        self._checksums = np.zeros((size, sum(chunks)), "<u4")
        self._pieces: dict[tuple[int, int, bool], tuple[Piece, ...]] = {}
        self._tensors = self._cut(self.memory)

    @cached_property
    def fields(self) -> list[NDArray[np.uint8]]:
        """What each field of each block takes, ``[size, bytes]``, by run, block and field."""
        memory = self.memory.numpy()
        return [
            memory[place.offset : place.offset + self.size * place.nbytes].reshape(self.size, place.nbytes)
            for run in self._places
            for block in run
            for place in block
        ]

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    def checksums(self, run: int, slot: int) -> NDArray[np.uint32]:
        """The checksums that were read behind the chunks of a run, a view ``[blocks]``."""
        stored: NDArray[np.uint32] = self._checksums[slot, self._first_chunk[run] : self._first_chunk[run + 1]]
        return stored

    def pieces(self, run: int, slot: int, *, whole: bool) -> tuple[Piece, ...]:
        """What to read of a run: the ``whole`` of it, or pieces that stay in the processor's cache for a while."""
        pieces = self._pieces.get((run, slot, whole))
        if pieces is None:
            targets = list(self._targets(run, slot))
            groups = [targets] if whole else _cut(targets, _PIECE_BYTES)
            pieces = self._pieces[run, slot, whole] = tuple(map(Piece, groups))
        return pieces

    def _targets(self, run: int, slot: int) -> Iterator[Target]:
        checksums = self.checksums(run, slot).data.cast("B")
        for block, places in enumerate(self._places[run]):
            for place in places:
                start = place.offset + slot * place.nbytes
                if place.nbytes:
                    yield Target(self._bytes[start : start + place.nbytes], False)
            yield Target(checksums[CRC_BYTES * block : CRC_BYTES * (block + 1)], True)

    def batch(self, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The first ``len(clips)`` slots as a batch; views, no copies."""
        return self._as_batch(self._tensors, clips, names)

    def batch_in(self, memory: Tensor, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The same views of a copy of :attr:`memory`, on another device for example."""
        return self._as_batch(self._cut(memory), clips, names)

    def _cut(self, memory: Tensor) -> dict[str, dict[str, Tensor]]:
        tensors: dict[str, dict[str, Tensor]] = {}
        for place in (place for run in self._places for block in run for place in block):
            flat = memory[place.offset : place.offset + self.size * place.nbytes]
            typed = flat.view(getattr(torch, place.field.dtype)).view(self.size, *place.field.shape)
            tensors.setdefault(place.layer, {})[place.field.part] = typed
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


def _cut(targets: Iterable[Target], size: int) -> Iterator[list[Target]]:
    """Groups of targets that follow one another, of at most ``size`` bytes (a checksum more); large ones are cut."""
    group: list[Target] = []
    room = size
    for target in targets:
        start = 0
        while start < len(target.memory):
            part = target.memory[start : start + (len(target.memory) if target.is_checksum else room)]
            group.append(Target(part, target.is_checksum))
            start += len(part)
            room -= len(part)
            if room <= 0:
                yield group
                group, room = [], size
    if group:
        yield group


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
            piece = map_memory(nbytes)
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


def map_memory(nbytes: int) -> mmap.mmap:
    """Memory that starts on a page; of large pages, which take half the time to get, where the system has them."""
    piece = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # a kernel that was built without them refuses the advice
        with suppress(OSError):
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece
