"""Writing the log of a shard number: a line is added for a clip, or the log is written anew without some.

A log is only added to where every line in it is whole, one a clip; else it is written anew first. So a torn line that a
killed writer left is gone before the next one follows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.commit_log import log_lines, read_log
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.manifest import ManifestRow, log_rows
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.writing.durable import disk_errors, remove_files, sync_folder, write_file

# how a log looks from outside: another content has another look
Look = tuple[int, ...] | None


def withdraw(metadata: StoreMetadata, shard: int, clips: Iterable[int]) -> None:
    """Write the log of a shard number anew without the records of some clips, and without what is no record."""
    lines = intact_lines(metadata, shard)
    gone = set(clips)
    write_log(metadata, shard, {clip: line for clip, line in lines.items() if clip not in gone})


def write_log(metadata: StoreMetadata, shard: int, lines: Mapping[int, bytes]) -> None:
    """Make these the log's lines, in the order of the clips; there is no log without any."""
    path = metadata.log_path(shard)
    if not lines:
        remove_files([path])
    else:
        write_file(path, b"".join(lines[clip] for clip in sorted(lines)))


def intact_lines(metadata: StoreMetadata, shard: int) -> dict[int, bytes]:
    """The last intact line of each clip."""
    lines: dict[int, bytes] = {}
    with suppress(StoreCorruptError):
        for line in read_log(metadata, shard):
            if line.record is not None:
                lines[line.record.index] = line.data
    return lines


@dataclass(frozen=True)
class _Known:
    """What is known of a log that looks so; ``whole`` says that it can be added to."""

    look: Look
    rows: dict[int, ManifestRow]
    whole: bool = False


class KnownRows:
    """The manifest's rows of the clips of each shard number, read from its log again when that has changed."""

    def __init__(self, metadata: StoreMetadata, clips: Sequence[str]) -> None:
        self.metadata = metadata
        self._clips = clips
        self._known: dict[int, _Known] = {}

    def rows(self, shard: int) -> dict[int, ManifestRow]:
        """The rows by clip index; of clips that have no intact record there are none."""
        return self._look_at(shard).rows

    def append(self, shard: int, record: CommitRecord) -> None:
        """Add a record of a clip that has none to the log; it is durable on return.

        The caller keeps others from writing this log. Raises as
        :func:`~mettle_cache.store.writing.durable.disk_errors`.
        """
        known, line, path = self._look_at(shard), record.to_bytes(), self.metadata.log_path(shard)
        if not known.whole and not self._is_whole(shard, known.look):
            withdraw(self.metadata, shard, ())
        with disk_errors(path, len(line)):
            is_new = not os.path.lexists(path)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(path.parent)
        rows = {**known.rows, record.index: ManifestRow.of(record, line)}
        self._known[shard] = _Known(self._look(shard), rows, whole=True)

    def is_in_order(self, shard: int) -> bool:
        """Whether a log is as in a finished store: a line a clip, in their order, and nothing else."""
        rows = self.rows(shard)
        try:
            lines = [digest(line) for line in log_lines(self.metadata, shard)]
        except StoreCorruptError:
            lines = []
        return lines == [rows[clip].commit for clip in sorted(rows)]

    def _look_at(self, shard: int) -> _Known:
        look, known = self._look(shard), self._known.get(shard)
        if known is None or known.look != look:
            rows = {} if look is None else log_rows(self.metadata, shard, self._clips)
            known = self._known[shard] = _Known(look, rows)
        return known

    def _is_whole(self, shard: int, look: Look) -> bool:
        """Whether a log holds intact lines and nothing else, in a file that is no other one's; or there is none."""
        if look is None:
            return True
        status = os.lstat(self.metadata.log_path(shard))
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return False
        return status.st_size == sum(map(len, intact_lines(self.metadata, shard).values()))

    def _look(self, shard: int) -> Look:
        try:
            status = os.lstat(self.metadata.log_path(shard))
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
