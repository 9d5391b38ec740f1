"""The files of one shard number while its clips are written (FORMAT.md section 6).

Data go into a ``.partial`` beside each shard, at the place that each clip has in it; a line of the log says that a
clip's are durable. When every clip is ok or failed, the shard is sealed: indexes are written, the files renamed, and
the log is put in order. What lies there then depends on nothing but the clips.

A shard that was sealed is not written to, because somebody may be reading it: a copy of it becomes the ``.partial``.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mettle_cache.store.format.commit_log import read_log
from mettle_cache.store.format.files import PARTIAL, open_regular
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.reading.clip_check import check_chunk, data_in, shard_problems
from mettle_cache.store.writing.clip_log import KnownRows, intact_lines, withdraw, write_log
from mettle_cache.store.writing.durable import (
    disk_errors,
    remove_files,
    rename_files,
    sync_folder,
    temporary_path,
    write_at,
)
from mettle_cache.store.writing.lifecycle import unready
from mettle_cache.store.writing.shards import ClipChunks

_ZEROS = bytes(256 << 10)


class ShardFiles:
    """The files of a shard number, for whoever has claimed it (:mod:`mettle_cache.store.writing.open_shards`)."""

    def __init__(self, metadata: StoreMetadata, known: KnownRows, shard: int) -> None:
        self.metadata = metadata
        self.shard = shard
        self._known = known
        # of each array's partial, while they are open
        self._descriptors: dict[str, int] = {}
        # held by a thread while it changes more than the data of its clip
        self._mutex = threading.RLock()

    def refresh(self) -> None:
        """Close files that another writer has sealed or replaced, now that it is kept from doing so."""
        for array in self.metadata.layout:
            if array.name in self._descriptors:
                mine = os.fstat(self._descriptors[array.name])
                with suppress(OSError):
                    if os.path.samestat(mine, os.lstat(self._partial(array))):
                        continue
                self.close()

    def prepare(self, clip: int) -> None:
        """Withdraw a clip's record, if it has one, and open the files for its data.

        Other clips of a sealed shard are compared with their records as they are copied; those that are damaged lose
        theirs, so that they are pending.
        """
        with self._mutex:
            if clip in self._known.rows(self.shard):
                self.withdraw([clip])
            unready(self.metadata)
            self._open_partials(self.metadata.layout)

    def write(self, clip: int, chunks: Sequence[ClipChunks]) -> None:
        """Write a clip's data; they are durable on return. Threads may do so for several clips at once.

        Raises
        ------
        NoRoomError, StoreError
            The disk is full, or refuses for another reason.
        """
        for part in chunks:
            with disk_errors(self._partial(part.array), part.array.clip_bytes):
                descriptor = self._descriptors[part.array.name]
                write_at(descriptor, part.buffers, part.array.chunk_offset(clip, 0))
                os.fdatasync(descriptor)

    def commit(self, record: CommitRecord) -> None:
        """Add a clip's record to the log, in place of one that it may have."""
        with self._mutex:
            unready(self.metadata)
            if record.index in self._known.rows(self.shard):
                self.withdraw([record.index])
            self._known.append(self.shard, record)

    def withdraw(self, clips: Sequence[int]) -> None:
        """Take back clips' records."""
        with self._mutex:
            unready(self.metadata)
            withdraw(self.metadata, self.shard, clips)

    def is_complete(self) -> bool:
        """Whether every clip is ok or failed."""
        return len(self._known.rows(self.shard)) == len(self.metadata.members(self.shard))

    def is_sealed(self, *, deep: bool) -> bool:
        """Whether a complete shard is as in a finished store; without ``deep`` only sizes and the log are looked at."""
        whole = all(self._is_whole(array, deep=deep) for array in self.metadata.layout)
        return whole and self._known.is_in_order(self.shard)

    def seal(self) -> bool:
        """Finish a complete shard; False where a copy of it that was needed showed damage, so that clips are pending.

        Doing it again after it was interrupted, or done, does no harm.
        """
        unready(self.metadata)
        stored = self._stored()
        unsealed = [array for array in self.metadata.layout if not self._is_whole(array, deep=True)]
        if stored:
            self._open_partials(unsealed)
            if not self.is_complete():
                return False
            for array in unsealed:
                self._write_index(array, stored)
            rename_files([(self._partial(array), self._path(array)) for array in unsealed])
        else:
            remove_files([path for array in unsealed for path in (self._partial(array), self._path(array))])
        self.close()
        if not self._known.is_in_order(self.shard):
            write_log(self.metadata, self.shard, intact_lines(self.metadata, self.shard))
        return True

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _stored(self) -> set[int]:
        return {clip for clip, row in self._known.rows(self.shard).items() if row.status == "ok"}

    def _path(self, array: ArrayLayout) -> Path:
        return self.metadata.path / array.shard_path(self.shard)

    def _partial(self, array: ArrayLayout) -> Path:
        path = self._path(array)
        return path.with_name(f"{path.name}{PARTIAL}")

    def _is_whole(self, array: ArrayLayout, *, deep: bool) -> bool:
        """Whether an array's shard is sealed, or rightly missing."""
        stored = self._stored()
        if deep and os.path.lexists(self._partial(array)):
            return False
        if not stored:
            return not os.path.lexists(self._path(array))
        is_file = self._path(array).is_file() and not self._path(array).is_symlink()
        return is_file and not shard_problems(self.metadata, array, self.shard, stored, deep=deep)

    def _write_index(self, array: ArrayLayout, stored: set[int]) -> None:
        """Write what comes behind the data, and zeros where a clip that failed has left something."""
        path, descriptor = self._partial(array), self._descriptors[array.name]
        with disk_errors(path, array.index_bytes):
            for clip in self.metadata.members(self.shard):
                if clip not in stored:
                    for start, length in data_in(descriptor, array, clip):
                        write_at(descriptor, [_ZEROS[:length]], start)
            os.ftruncate(descriptor, array.index_offset(self.shard))
            write_at(descriptor, [array.index(self.shard, stored)], array.index_offset(self.shard))
            os.fdatasync(descriptor)

    def _open_partials(self, arrays: Sequence[ArrayLayout]) -> None:
        """Open the partials of these arrays; make those that are not there, of the shard where it is sealed."""
        closed = [array for array in arrays if array.name not in self._descriptors]
        lacking = [array for array in closed if not _is_own_file(self._partial(array))]
        if lacking and self._stored():
            self._copy(lacking)
        elif lacking:
            for array in lacking:
                with disk_errors(self._partial(array), needed=0):
                    self._partial(array).unlink(missing_ok=True)
        for array in closed:
            path = self._partial(array)
            with disk_errors(path, needed=0):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = self._descriptors[array.name] = os.open(path, flags, 0o666)
                if os.fstat(descriptor).st_size < array.index_offset(self.shard):
                    os.ftruncate(descriptor, array.index_offset(self.shard))
        for array in lacking:
            with disk_errors(self._partial(array), needed=0):
                sync_folder(self._partial(array).parent)

    def _copy(self, arrays: Sequence[ArrayLayout]) -> None:
        """Make partials of what lies there of these arrays: of the clips that have intact records, and are intact."""
        commits = {}
        for line in read_log(self.metadata, self.shard):
            if line.record is not None and line.record.status == "ok":
                commits[line.record.index] = line.record
        renames, damaged = [], set()
        try:
            for array in arrays:
                partial = self._partial(array)
                renames.append((temporary_path(self._path(array)), partial))
                with disk_errors(partial, array.index_offset(self.shard)):
                    damaged |= self._copy_array(array, renames[-1][0], commits)
            if damaged:
                self.withdraw(sorted(damaged))
            rename_files(renames)
        except BaseException:
            for temporary, _ in renames:
                temporary.unlink(missing_ok=True)
            raise

    def _copy_array(self, array: ArrayLayout, target: Path, commits: Mapping[int, CommitRecord]) -> set[int]:
        """Copy the places of clips; returns the clips that are damaged."""
        try:
            source = open_regular(self.metadata.shard_file(array, self.shard, finished=False))
        except OSError:
            source = None
        target.unlink(missing_ok=True)
        damaged: set[int] = set()
        try:
            with target.open("xb", buffering=0) as file:
                descriptor = file.fileno()
                os.ftruncate(descriptor, array.index_offset(self.shard))
                for clip, commit in commits.items():
                    if source is None or not _copy_clip(source, descriptor, array, clip, commit):
                        damaged.add(clip)
                os.fdatasync(descriptor)
        finally:
            if source is not None:
                os.close(source)
        return damaged


def _copy_clip(source: int, target: int, array: ArrayLayout, clip: int, commit: CommitRecord) -> bool:
    """Copy a clip's chunks; False where they are not those that were committed."""

    def copy(piece: memoryview, offset: int) -> None:
        write_at(target, [piece], offset)

    checksums = enumerate(commit.crc32c[array.name])
    return all(check_chunk(source, array, clip, block, checksum, copy=copy) is None for block, checksum in checksums)


def _is_own_file(path: Path) -> bool:
    """Whether a regular file lies there that is no other one's: not a link, in either sense."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
