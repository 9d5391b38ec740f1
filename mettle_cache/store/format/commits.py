"""Commit records on disk: reading them back, and whether a clip's data is there as committed."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.files import read_small, repair_hint
from mettle_cache.store.format.metadata import StoreHead
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.format.spec import digest

_LARGEST_COMMIT = 4 << 20


def read_commit(head: StoreHead, clip: int) -> tuple[CommitRecord, bytes]:
    """A clip's commit record and its bytes.

    Raises
    ------
    StoreCorruptError
        It is missing, damaged, of another clip or of another store.
    """
    path = head.commit_path(clip)
    data = read_small(path, limit=_LARGEST_COMMIT, store=head.path)
    try:
        record = CommitRecord.from_bytes(data)
        _check_belongs(record, head, clip)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise StoreCorruptError(f"{path}: damaged commit record: {reason}", hint=repair_hint(head.path)) from error
    return record, data


@dataclass(frozen=True)
class NamedCommits:
    """The commits that a manifest names: clip ids and digests of the records, by clip index."""

    head: StoreHead
    clips: Sequence[str]
    digests: Sequence[str]

    def read(self, clip: int) -> CommitRecord:
        """A clip's record. Raises StoreCorruptError when it is not the one that the manifest names."""
        record, data = read_commit(self.head, clip)
        if record.clip != self.clips[clip] or digest(data) != self.digests[clip]:
            raise StoreCorruptError(
                f"clip {self.clips[clip]}: {self.head.commit_path(clip)}: not the record that the manifest names",
                hint=repair_hint(self.head.path),
            )
        return record


def find_commit(head: StoreHead, clip: int) -> CommitRecord | None:
    """The clip's commit record, or None where it would have to be written (again)."""
    try:
        return read_commit(head, clip)[0]
    except StoreCorruptError:
        return None


def misfit_shards(head: StoreHead, clip: int) -> list[tuple[int, str]]:
    """Shards of a clip that are not regular files of the right size: the array's position in the layout, and why."""
    found: list[tuple[int, str]] = []
    for position, array in enumerate(head.layout):
        try:
            status = os.lstat(head.path / array.shard_path(clip))
        except OSError as error:
            found.append((position, error.strerror or str(error)))
            continue
        if not stat.S_ISREG(status.st_mode):
            found.append((position, "not a regular file"))
        elif status.st_size != array.shard_bytes:
            found.append((position, f"{status.st_size:,} bytes instead of {array.shard_bytes:,}"))
    return found


def _check_belongs(record: CommitRecord, head: StoreHead, clip: int) -> None:
    if record.index != clip:
        raise ValueError(f"it is that of clip {record.index}")
    if record.key != head.record.key_digest:
        raise ValueError("it is of another store")
    expected = {array.name: array.blocks for array in head.layout} if record.status == "ok" else {}
    if {name: len(checksums) for name, checksums in record.crc32c.items()} != expected:
        raise ValueError("its arrays are not those of the store")
