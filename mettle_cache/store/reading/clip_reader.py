"""The direct reader: a clip's chunk bytes from its shards straight into their place in a batch.

It does not use zarr: chunks are uncompressed and at computed offsets, so a run of blocks is one ``preadv``. The bytes
are checked against the commit record, which is another file: damage to a shard cannot change both.
"""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import crc32c, crc_bytes
from mettle_cache.store.format.files import open_regular, read_fully, repair_hint
from mettle_cache.store.format.manifest import NamedCommits
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.reading.buffers import BatchBuffer, BlockRun

CHECKS = ("first", "always", "never")
_MOST_OPEN = 512
# what stays in the processor's cache between the read and the checksum
_PIECE_BYTES = 256 << 10


class ClipReader:
    """Reads clips of one store; safe to use from several threads.

    Parameters
    ----------
    commits
        The commits that the manifest names; read when a clip's chunks are checked.
    check
        When a chunk's checksum is compared: the ``first`` time that this reader reads it, ``always`` or ``never``.
    """

    def __init__(self, commits: NamedCommits, *, check: str) -> None:
        metadata = commits.metadata
        self.commits = commits
        self.check = check
        self._folder = str(metadata.path)
        self._files = DescriptorCache(open_regular)
        starts = np.cumsum([0, *(array.blocks for array in metadata.layout)])
        self._first_block = {array.name: int(start) for array, start in zip(metadata.layout, starts, strict=False)}
        # one byte a chunk of the store; a race between two threads costs one more check, never one less
        self._checked = np.zeros((len(commits.clips), int(starts[-1])), bool)
        # clips that need no look at their chunks any more
        self._clean: set[int] = set()

    def read_clip(self, clip: int, buffer: BatchBuffer, slot: int) -> None:
        """Read one clip into a slot.

        Raises
        ------
        StoreCorruptError
            A shard is missing, has another size, or holds other bytes than were committed; names clip, layer and file.
        """
        commit: CommitRecord | None = None
        trusted = self.check == "never" or clip in self._clean
        for run in buffer.runs:
            unchecked = not trusted and self._unchecked(clip, run)
            if unchecked:
                commit = commit or self.commits.read(clip)
            try:
                with self._files.lease(f"{self._folder}/{run.array.shard_path(clip)}") as descriptor:
                    if commit is None or not unchecked:
                        self._fill(descriptor, clip, run, buffer, slot)
                        continue
                    self._check_index(descriptor, clip, run)
                    for part in run.single_blocks:
                        self._fill_checked(descriptor, clip, part, buffer, slot, commit)
            except OSError as error:
                raise self._damaged(clip, run, error.strerror or str(error)) from error
        if commit is not None and self.check == "first" and self._checked[clip].all():
            self._clean.add(clip)

    def close(self) -> None:
        """Close the files that are kept open for the next read."""
        self._files.close()

    def _fill(self, descriptor: int, clip: int, run: BlockRun, buffer: BatchBuffer, slot: int) -> None:
        if read_fully(descriptor, buffer.targets(run, slot), run.offset, run.nbytes) != run.nbytes:
            raise self._cut_short(descriptor, clip, run)

    def _fill_checked(
        self, descriptor: int, clip: int, run: BlockRun, buffer: BatchBuffer, slot: int, commit: CommitRecord
    ) -> None:
        """Fill a run of one block, and compare its checksum."""
        chunk, checksum = buffer.targets(run, slot)
        value = 0
        for start in range(0, chunk.nbytes, _PIECE_BYTES):
            piece = chunk[start : start + _PIECE_BYTES]
            targets = [piece, checksum] if start + piece.nbytes == chunk.nbytes else [piece]
            nbytes = sum(target.nbytes for target in targets)
            if read_fully(descriptor, targets, run.offset + start, nbytes) != nbytes:
                raise self._cut_short(descriptor, clip, run)
            value = crc32c(piece, value)
        self._compare(clip, run, value, checksum, commit)

    def _unchecked(self, clip: int, run: BlockRun) -> bool:
        """Whether a chunk of the run is still to be compared."""
        if self.check == "always":
            return True
        first = self._first_block[run.array.name]
        return not self._checked[clip, first + run.blocks.start : first + run.blocks.stop].all()

    def _check_index(self, descriptor: int, clip: int, run: BlockRun) -> None:
        array = run.array
        # one byte more than there is, so that a file that has grown shows it
        index = os.pread(descriptor, len(array.index) + 1, array.index_offset)
        if len(index) != len(array.index):
            raise self._cut_short(descriptor, clip, run)
        if index != array.index:
            raise self._damaged(clip, run, "the shard index is damaged")

    def _compare(self, clip: int, run: BlockRun, value: int, checksum: memoryview, commit: CommitRecord) -> None:
        array, block = run.array, run.blocks.start
        if f"{value:08x}" != commit.crc32c[array.name][block]:
            raise self._damaged(clip, run, f"the {array.part} are not those that were committed")
        if checksum != crc_bytes(value):
            raise self._damaged(clip, run, "the stored checksum is damaged")
        self._checked[clip, self._first_block[array.name] + block] = True

    def _cut_short(self, descriptor: int, clip: int, run: BlockRun) -> StoreCorruptError:
        size = os.fstat(descriptor).st_size
        return self._damaged(clip, run, f"{size:,} bytes instead of {run.array.shard_bytes:,}")

    def _damaged(self, clip: int, run: BlockRun, what: str) -> StoreCorruptError:
        where = run.array.span(run.blocks)
        path = f"{self._folder}/{run.array.shard_path(clip)}"
        return StoreCorruptError(
            f"clip {self.commits.clips[clip]}, layer {where}: {path}: {what}",
            hint=repair_hint(self.commits.metadata.path),
        )


@dataclass
class _Open:
    descriptor: int
    users: int = 0


class _Lease:
    """A lease as a context manager. It is a class because a generator takes longer than the rest of a small read."""

    __slots__ = ("_cache", "_entry")

    def __init__(self, cache: DescriptorCache, entry: _Open) -> None:
        self._cache = cache
        self._entry = entry

    def __enter__(self) -> int:
        return self._entry.descriptor

    def __exit__(self, *_: object) -> None:
        self._cache.give_back(self._entry)


class DescriptorCache:
    """Keeps the files that were used last open: opening one costs as much as reading a small block. Thread-safe.

    A file is never closed while somebody reads from it.

    ``open_file`` opens a path and checks it; at most ``capacity`` files stay open when nobody uses them (by default a
    quarter of what the process may have, or 512).
    """

    def __init__(self, open_file: Callable[[str], int], capacity: int | None = None) -> None:
        self._open_file = open_file
        self._capacity = (
            min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4) if capacity is None else capacity
        )
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    def lease(self, path: str) -> _Lease:
        """A descriptor of ``path`` that stays open within the ``with`` block; raises what ``open_file`` raises."""
        return _Lease(self, self._take(path))

    def give_back(self, entry: _Open) -> None:
        """The end of a lease."""
        with self._lock:
            entry.users -= 1
            self._evict()

    def close(self) -> None:
        """Close every file; the cache can be used again."""
        with self._lock:
            _close_all(self._open)

    def _take(self, path: str) -> _Open:
        with self._lock:
            entry = self._open.get(path)
            if entry is not None:
                self._open.move_to_end(path)
                entry.users += 1
                return entry
        descriptor = self._open_file(path)
        with self._lock:
            # another thread may have opened it meanwhile; one of the two is enough
            entry = self._open.setdefault(path, _Open(descriptor))
            entry.users += 1
        if entry.descriptor != descriptor:
            os.close(descriptor)
        return entry

    def _evict(self) -> None:
        while len(self._open) > self._capacity:
            # the one used longest ago comes first, and is nearly always idle
            idle = next((path for path, entry in self._open.items() if entry.users == 0), None)
            if idle is None:
                return
            os.close(self._open.pop(idle).descriptor)


def _close_all(files: OrderedDict[str, _Open]) -> None:
    while files:
        os.close(files.popitem()[1].descriptor)
