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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import crc32c
from mettle_cache.store.format.files import open_regular, read_fully, repair_hint
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.format.manifest import NamedCommits
from mettle_cache.store.reading.buffers import BatchBuffer, BlockRun, Piece

CHECKS = ("first", "always", "never")
_MOST_OPEN = 512


class ClipReader:
    """Reads clips of one store; safe to use from several threads.

    Parameters
    ----------
    commits
        The commits that the manifest names; read when a clip's chunks are checked.
    stored
        The clips that have tokens.
    check
        When a chunk's checksum is compared: the ``first`` time that this reader reads it, ``always`` or ``never``.
        Once for each shard its size and index are looked at too, unless it is ``never``.
    finished
        Whether the store was finished when it was opened; in any other, shards may still be partial.
    """

    def __init__(self, commits: NamedCommits, stored: Iterable[int], *, check: str, finished: bool) -> None:
        metadata = commits.metadata
        self.commits = commits
        self.check = check
        self._stored = frozenset(stored)
        self._finished = finished
        self._folder = str(metadata.path)
        self._files = DescriptorCache(open_regular)
        starts = np.cumsum([0, *(array.blocks for array in metadata.layout)])
        self._first_block = {array.name: int(start) for array, start in zip(metadata.layout, starts, strict=False)}
        # one byte a chunk of the store; a race between two threads costs one more check, never one less
        self._checked = np.zeros((len(commits.clips), int(starts[-1])), bool)
        # clips that need no look at their chunks any more
        self._clean: set[int] = set()
        # shards, by array name and number, that are as long as they should be and have their index
        self._whole: set[tuple[str, int]] = set()

    def read_clip(self, clip: int, buffer: BatchBuffer, slot: int) -> None:
        """Read one clip into a slot.

        Raises
        ------
        StoreCorruptError
            A shard is missing, has another size, or holds other bytes than were committed; names clip, layer and file.
        """
        trusted = self.check == "never" or clip in self._clean
        committed: list[int] | None = None
        for position, run in enumerate(buffer.runs):
            unchecked = not trusted and self._unchecked(clip, run)
            if unchecked and committed is None:
                committed = self.commits.checksums(clip)
            try:
                with self._lease(run.array, clip) as descriptor:
                    if committed is None or not unchecked:
                        self._fill(descriptor, clip, run, buffer.pieces(position, slot, whole=True))
                        continue
                    self._check_shard(descriptor, clip, run)
                    found = self._fill(descriptor, clip, run, buffer.pieces(position, slot, whole=False), sums=True)
                    self._compare(clip, run, found, buffer.checksums(position, slot).tolist(), committed)
            except OSError as error:
                raise self._damaged(clip, run, error.strerror or str(error)) from error
        if committed is not None and self.check == "first" and self._checked[clip].all():
            self._clean.add(clip)

    def close(self) -> None:
        """Close the files that are kept open for the next read."""
        self._files.close()

    def _lease(self, array: ArrayLayout, clip: int) -> _Lease:
        try:
            return self._files.lease(self._path(array, clip))
        except FileNotFoundError:
            if self._finished:
                raise
            # a writer may have sealed the shard since its name was looked up
            return self._files.lease(self._path(array, clip))

    def _path(self, array: ArrayLayout, clip: int) -> str:
        shard = array.shard(clip)
        if self._finished:
            return f"{self._folder}/{array.shard_path(shard)}"
        return str(self.commits.metadata.shard_file(array, shard, finished=False))

    def _fill(
        self, descriptor: int, clip: int, run: BlockRun, pieces: Sequence[Piece], *, sums: bool = False
    ) -> list[int]:
        """Fill a run; with ``sums``, the checksums of its chunks, computed while they are in the processor's cache."""
        found, value, offset = list[int](), 0, run.offset(clip)
        for piece in pieces:
            if read_fully(descriptor, piece.memory, offset, piece.nbytes) != piece.nbytes:
                raise self._cut_short(descriptor, clip, run)
            offset += piece.nbytes
            for memory, is_checksum in piece.targets if sums else ():
                if is_checksum:
                    found.append(value)
                    value = 0
                else:
                    value = crc32c(memory, value)
        return found

    def _unchecked(self, clip: int, run: BlockRun) -> bool:
        """Whether a chunk of the run is still to be compared."""
        return self.check == "always" or not self._checked[clip, self._chunks(run)].all()

    def _chunks(self, run: BlockRun) -> slice:
        """The chunks of a run among all those of a clip."""
        first = self._first_block[run.array.name]
        return slice(first + run.blocks.start, first + run.blocks.stop)

    def _check_shard(self, descriptor: int, clip: int, run: BlockRun) -> None:
        """Compare the size and the index of the shard; one that is being filled has neither yet."""
        array, shard = run.array, run.array.shard(clip)
        if not self._finished or (array.name, shard) in self._whole:
            return
        # one byte more than there is, so that a file that has grown shows it
        index = os.pread(descriptor, array.index_bytes + 1, array.index_offset(shard))
        if len(index) != array.index_bytes:
            raise self._cut_short(descriptor, clip, run)
        if index != array.index(shard, self._stored):
            raise self._damaged(clip, run, "the shard index is damaged")
        self._whole.add((array.name, shard))

    def _compare(self, clip: int, run: BlockRun, found: list[int], stored: list[int], committed: list[int]) -> None:
        """Compare the checksums of a run's chunks with the commit record's, and with those that are stored."""
        chunks = self._chunks(run)
        for expected, what in (
            (committed[chunks], f"the {run.array.contents} are not those that were committed"),
            (stored, "the stored checksum is damaged"),
        ):
            if expected != found:
                pairs = zip(run.blocks, expected, found, strict=True)
                block = next(block for block, wanted, value in pairs if wanted != value)
                raise self._damaged(clip, BlockRun(run.array, range(block, block + 1)), what)
        self._checked[clip, chunks] = True

    def _cut_short(self, descriptor: int, clip: int, run: BlockRun) -> StoreCorruptError:
        size, whole = os.fstat(descriptor).st_size, run.array.shard_bytes(run.array.shard(clip))
        what = f"{size:,} bytes instead of {whole:,}" if self._finished else f"it ends after {size:,} bytes"
        return self._damaged(clip, run, what)

    def _damaged(self, clip: int, run: BlockRun, what: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"clip {self.commits.clips[clip]}, layer {run.array.span(run.blocks)}: {self._path(run.array, clip)}: "
            f"{what}",
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
