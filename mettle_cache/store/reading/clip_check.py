"""Comparing every byte of a clip with its commit record, in pieces: memory does not grow with what a store declares.

Also what is wrong with a shard itself, and with none of its clips: its size, its index, its empty places.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
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
Item = TypeVar("Item")
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


def check_in_threads(check: Callable[[Item], Result], clips: Iterable[Item]) -> Iterator[Result]:
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


def size_problems(
    metadata: StoreMetadata, clip: int, commit: CommitRecord, sizes: Sequence[int | str], *, finished: bool
) -> list[Problem]:
    """Shards that do not hold the place of a committed clip; ``sizes`` are those of its shard number."""
    problems = []
    for position, what in misfit_shards(metadata, clip, sizes):
        array = metadata.layout[position]
        name = metadata.shard_file(array, metadata.shard(clip), finished=finished).name
        problems.append(Problem(what, f"{array.name}/{name}", commit.clip, whole_stage(array)))
    return problems


def byte_problems(metadata: StoreMetadata, clip: int, commit: CommitRecord, *, finished: bool) -> list[Problem]:
    """What of a committed clip is not as it was committed; reads every byte of it."""
    return [
        problem
        for array in metadata.layout
        for problem in _check_clip(metadata, array, clip, commit, finished=finished)
    ]


def shard_problems(
    metadata: StoreMetadata, array: ArrayLayout, shard: int, stored: Container[int] | None, *, deep: bool
) -> list[Problem]:
    """What is wrong with a whole shard beside its clips: its size, and with ``deep`` its index and its empty places.

    ``stored`` has the clips that are in it; without any there is no shard. It is None where that may have changed since
    the shard was sealed. A shard that is missing is a problem of its clips.
    """
    relative = array.shard_path(shard)
    members = metadata.members(shard)
    if stored is not None and not any(clip in stored for clip in members):
        return []
    try:
        descriptor = open_regular(metadata.path / relative)
    except OSError:
        return []
    with open(descriptor, "rb", buffering=0):
        size, whole = os.fstat(descriptor).st_size, array.shard_bytes(shard)
        if size != whole:
            what = f"{size:,} bytes instead of {whole:,}"
        elif not deep:
            return []
        elif not _has_index(descriptor, array, shard, stored):
            what = "the shard index is damaged"
        elif stored is None:
            return []
        else:
            empty = (clip for clip in members if clip not in stored)
            if all(not any(data_in(descriptor, array, clip)) for clip in empty):
                return []
            what = "there are bytes where a clip has failed"
    return [Problem(what, relative, layer=whole_stage(array))]


def _has_index(descriptor: int, array: ArrayLayout, shard: int, stored: Container[int] | None) -> bool:
    index = _read(descriptor, array.index_offset(shard), array.index_bytes)
    if stored is None:
        return index[-CRC_BYTES:] == crc_bytes(crc32c(memoryview(index)[:-CRC_BYTES]))
    return index == array.index(shard, stored)


def data_in(descriptor: int, array: ArrayLayout, clip: int) -> Iterator[tuple[int, int]]:
    """Where in the place of a clip a shard has other bytes than zeros: offsets and lengths of pieces."""
    start = array.chunk_offset(clip, 0)
    end = min(start + array.clip_bytes, os.fstat(descriptor).st_size)
    while start < end:
        try:
            # what was never written takes no time
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
        length = min(_PIECE_BYTES, end - start)
        if length > 0 and _read(descriptor, start, length).count(0) < length:
            yield start, length
        start += length


def _check_clip(
    metadata: StoreMetadata, array: ArrayLayout, clip: int, commit: CommitRecord, *, finished: bool
) -> Iterator[Problem]:
    shard = array.shard(clip)
    path = metadata.shard_file(array, shard, finished=finished)
    relative = f"{array.name}/{path.name}"
    try:
        with open(open_regular(path), "rb", buffering=0) as file:
            for block in range(array.blocks):
                what = check_chunk(file.fileno(), array, clip, block, commit.crc32c[array.name][block])
                if what is not None:
                    yield Problem(what, relative, commit.clip, array.span(range(block, block + 1)))
    except OSError as error:
        yield Problem(error.strerror or str(error), relative, commit.clip, whole_stage(array))


def check_chunk(
    descriptor: int,
    array: ArrayLayout,
    clip: int,
    block: int,
    committed: str,
    *,
    copy: Callable[[memoryview, int], None] = lambda piece, offset: None,
) -> str | None:
    """What is wrong with a chunk, or None. ``copy`` gets each piece of it and its place in the shard meanwhile."""
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(array.field_bytes, default=0))))
    value, finite = 0, True
    start = array.chunk_offset(clip, block)
    for field, nbytes in zip(array.fields, array.field_bytes, strict=True):
        for offset in range(start, start + nbytes, _PIECE_BYTES):
            piece = buffer[: start + nbytes - offset]
            if read_fully(descriptor, [piece], offset, piece.nbytes) != piece.nbytes:
                return "it ends early"
            value = crc32c(piece, value)
            if field.dtype.startswith("float"):
                finite = finite and bool(np.isfinite(np.frombuffer(piece, field.dtype)).all())
            copy(piece, offset)
        start += nbytes
    if f"{value:08x}" != committed:
        return f"the {array.contents} are not those that were committed"
    if _read(descriptor, start, CRC_BYTES) != crc_bytes(value):
        return "the stored checksum is damaged"
    copy(memoryview(crc_bytes(value)), start)
    return None if finite else f"the {array.contents} are not finite"


def whole_stage(array: ArrayLayout) -> str:
    """The layers of an array, for messages."""
    return array.span(range(array.blocks))


def _read(descriptor: int, offset: int, nbytes: int) -> bytes:
    data = bytearray(nbytes)
    return bytes(data[: read_fully(descriptor, [memoryview(data)], offset, nbytes)])
