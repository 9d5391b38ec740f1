"""Comparing every byte of a clip with its commit record, in pieces: memory does not grow with what a store declares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes
from mettle_cache.store.format.files import open_regular, read_fully
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.format.manifest import misfit_shards
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord

THREADS = 4
# whole values of every type, and small enough to stay in the processor's cache between the read and the checksum
_PIECE_BYTES = 256 << 10
Result = TypeVar("Result")


class Advance(Protocol):
    """Called after each clip with the bytes that were checked."""

    def __call__(self, n: int, *, nbytes: int) -> None: ...


@dataclass(frozen=True)
class Problem:
    """One problem of a store; ``clip`` and ``layer`` are empty where a file belongs to none or to all."""

    what: str
    file: str
    clip: str = ""
    layer: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.clip and f"clip {self.clip}", self.layer) if part)
        return f"{f'{where}: ' if where else ''}{self.file}: {self.what}"


def check_in_threads(check: Callable[[int], Result], clips: Iterable[int]) -> Iterator[Result]:
    """``check`` of each clip, in order, by several threads. Only a few are under way, however many clips there are."""
    under_way: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(THREADS, "check")
    try:
        for clip in clips:
            under_way.append(executor.submit(check, clip))
            if len(under_way) == 2 * THREADS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def size_problems(metadata: StoreMetadata, clip: int, commit: CommitRecord) -> list[Problem]:
    """Shards of a committed clip that are missing or have another size than they must have."""
    return [
        Problem(what, metadata.layout[position].shard_path(clip), commit.clip, _whole(metadata.layout[position]))
        for position, what in misfit_shards(metadata, clip)
    ]


def byte_problems(metadata: StoreMetadata, clip: int, commit: CommitRecord) -> list[Problem]:
    """What in the shards of a committed clip is not as it was committed; reads every byte."""
    return [problem for array in metadata.layout for problem in _check_shard(metadata, array, clip, commit)]


def _check_shard(metadata: StoreMetadata, array: ArrayLayout, clip: int, commit: CommitRecord) -> Iterator[Problem]:
    relative = array.shard_path(clip)
    try:
        with open(open_regular(metadata.path / relative), "rb", buffering=0) as file:
            descriptor = file.fileno()
            if _read(descriptor, array.index_offset, len(array.index)) != array.index:
                yield Problem("the shard index is damaged", relative, commit.clip, _whole(array))
            for block in range(array.blocks):
                what = _check_chunk(descriptor, array, block, commit.crc32c[array.name][block])
                if what is not None:
                    yield Problem(what, relative, commit.clip, array.span(range(block, block + 1)))
    except OSError as error:
        yield Problem(error.strerror or str(error), relative, commit.clip, _whole(array))


def _check_chunk(descriptor: int, array: ArrayLayout, block: int, committed: str) -> str | None:
    """What is wrong with a chunk, or None."""
    buffer = memoryview(bytearray(min(_PIECE_BYTES, array.chunk_bytes)))
    value, finite = 0, True
    start = array.chunk_offset(block)
    end = start + array.chunk_bytes
    for offset in range(start, end, _PIECE_BYTES):
        piece = buffer[: end - offset]
        if read_fully(descriptor, [piece], offset, piece.nbytes) != piece.nbytes:
            return "it ends early"
        value = crc32c(piece, value)
        if array.dtype.startswith("float"):
            finite = finite and bool(np.isfinite(np.frombuffer(piece, array.dtype)).all())
    if f"{value:08x}" != committed:
        return f"the {array.part} are not those that were committed"
    if _read(descriptor, end, CRC_BYTES) != crc_bytes(value):
        return "the stored checksum is damaged"
    return None if finite else f"the {array.part} are not finite"


def _read(descriptor: int, offset: int, nbytes: int) -> bytes:
    data = bytearray(nbytes)
    return bytes(data[: read_fully(descriptor, [memoryview(data)], offset, nbytes)])


def _whole(array: ArrayLayout) -> str:
    return array.span(range(array.blocks))
