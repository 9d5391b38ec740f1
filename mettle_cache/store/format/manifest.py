"""The outcome of each clip: its commit record, and the manifest, with one row a clip.

A finished store has its manifest on disk; that of an unfinished one is built from its commit records.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreCorruptError
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import MANIFEST, read_small, read_table, repair_hint
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord, ReadyRecord

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST_COMMIT = 1 << 20
_COLUMNS = {
    "index": "int64",
    "id": "string",
    "split": "string",
    "segments": "int64",
    "status": "string",
    "error": "string",
    "source": "string",
    "commit": "string",
}


def read_commit(metadata: StoreMetadata, clip: int) -> tuple[CommitRecord, bytes]:
    """A clip's commit record and its bytes.

    Raises
    ------
    StoreCorruptError
        It is missing, damaged, of another clip or of another store.
    """
    path = metadata.commit_path(clip)
    data = read_small(path, limit=_LARGEST_COMMIT, store=metadata.path)
    try:
        record = CommitRecord.from_bytes(data)
        _check_belongs(record, metadata, clip)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise StoreCorruptError(f"{path}: damaged commit record: {reason}", hint=repair_hint(metadata.path)) from error
    return record, data


@dataclass(frozen=True)
class NamedCommits:
    """The commits that a manifest names: clip ids and digests of the records, by clip index."""

    metadata: StoreMetadata
    clips: Sequence[str]
    digests: Sequence[str]

    def read(self, clip: int) -> CommitRecord:
        """A clip's record. Raises StoreCorruptError when it is not the one that the manifest names."""
        record, data = read_commit(self.metadata, clip)
        if record.clip != self.clips[clip] or digest(data) != self.digests[clip]:
            raise StoreCorruptError(
                f"clip {self.clips[clip]}: {self.metadata.commit_path(clip)}: not the record that the manifest names",
                hint=repair_hint(self.metadata.path),
            )
        return record


def find_commit(metadata: StoreMetadata, clip: int) -> CommitRecord | None:
    """The clip's commit record, or None where the clip has to be written (again)."""
    try:
        return read_commit(metadata, clip)[0]
    except StoreCorruptError:
        return None


def misfit_shards(metadata: StoreMetadata, clip: int) -> list[tuple[int, str]]:
    """Shards of a clip that are not regular files of the right size: the array's position in the layout, and why."""
    misfits: list[tuple[int, str]] = []
    for position, array in enumerate(metadata.layout):
        try:
            status = os.lstat(metadata.path / array.shard_path(clip))
        except OSError as error:
            misfits.append((position, error.strerror or str(error)))
            continue
        if not stat.S_ISREG(status.st_mode):
            misfits.append((position, "not a regular file"))
        elif status.st_size != array.shard_bytes:
            misfits.append((position, f"{status.st_size:,} bytes instead of {array.shard_bytes:,}"))
    return misfits


@dataclass(frozen=True)
class Manifest:
    """By clip index: id, ``ok`` / ``failed`` / ``pending``, error, and the digests of the media and of the commit."""

    ids: tuple[str, ...]
    statuses: tuple[str, ...]
    errors: tuple[str, ...]
    sources: tuple[str, ...]
    commits: tuple[str, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Clips that have no tokens, and why."""
        rows = zip(self.ids, self.statuses, self.errors, strict=True)
        return {clip: error for clip, status, error in rows if status == "failed"}

    @property
    def made_of(self) -> dict[int, str]:
        """The digest of the media that each clip with tokens was made of, by clip index."""
        rows = zip(self.statuses, self.sources, strict=True)
        return {clip: source for clip, (status, source) in enumerate(rows) if status == "ok"}


@dataclass(frozen=True)
class ManifestRow:
    """What the manifest and ``READY`` hold of a clip; a commit record takes a hundred times the memory."""

    clip: str
    status: str
    error: str
    source: str
    commit: str

    @classmethod
    def of(cls, commit: CommitRecord) -> ManifestRow:
        return cls(
            commit.clip, commit.status, commit.error or "", commit.source or "", commit=digest(commit.to_bytes())
        )


def manifest_table(metadata: StoreMetadata, rows: Sequence[ManifestRow], samples: pa.Table) -> pa.Table:
    """The manifest of a finished store as it is written."""
    import pyarrow as pa

    clips = [row.clip for row in rows]
    columns = [
        range(len(rows)),
        clips,
        splits_of(clips, samples),
        [metadata.segments] * len(rows),
        [row.status for row in rows],
        [row.error for row in rows],
        [row.source for row in rows],
        [row.commit for row in rows],
    ]
    return pa.table(columns, schema=_schema())


def read_manifest(metadata: StoreMetadata, *, expected: str) -> Manifest:
    """The manifest of a finished store, whose digest ``READY`` tells.

    Raises
    ------
    StoreCorruptError
        It is damaged.
    """
    table = read_table(metadata.path / MANIFEST, expected=expected, store=metadata.path)
    known = table.schema == _schema() and table.num_rows == metadata.clips
    if not known or tuple(table["id"].to_pylist()) != metadata.read_clip_ids():
        raise StoreCorruptError(
            f"{metadata.path / MANIFEST}: not the clips of this store", hint=repair_hint(metadata.path)
        )
    columns = (tuple(table[name].to_pylist()) for name in ("id", "status", "error", "source", "commit"))
    return Manifest(*columns)


def open_manifest(metadata: StoreMetadata, ready: ReadyRecord | None) -> Manifest:
    """The manifest of a finished store (``ready`` is its record), or that of an unfinished one from its commits."""
    return manifest_so_far(metadata) if ready is None else read_manifest(metadata, expected=ready.files[MANIFEST])


def manifest_so_far(metadata: StoreMetadata) -> Manifest:
    """The manifest of an unfinished store, from its commits. Raises StoreCorruptError for damaged clip ids."""
    ids = metadata.read_clip_ids()
    none = [""] * len(ids)
    statuses, errors, sources, commits = ["pending"] * len(ids), none.copy(), none.copy(), none.copy()
    for clip in metadata.committed_clips():
        commit = find_commit(metadata, clip)
        if commit is not None and commit.clip == ids[clip]:
            row = ManifestRow.of(commit)
            statuses[clip], errors[clip], sources[clip], commits[clip] = row.status, row.error, row.source, row.commit
    return Manifest(ids, *map(tuple, (statuses, errors, sources, commits)))


def splits_of(clips: Sequence[str], samples: pa.Table) -> list[str]:
    """The split of each clip by its samples; several are joined by commas, none is empty."""
    if "split" not in samples.column_names:
        return [""] * len(clips)
    splits: dict[str, dict[str, None]] = {clip: {} for clip in clips}
    for members, split in zip(clips_of_samples(samples), samples["split"].to_pylist(), strict=True):
        for clip in members:
            splits[clip][str(split)] = None
    return [",".join(splits[clip]) for clip in clips]


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])


def _check_belongs(record: CommitRecord, metadata: StoreMetadata, clip: int) -> None:
    if record.index != clip:
        raise ValueError(f"it is that of clip {record.index}")
    if record.key != metadata.record.key_digest:
        raise ValueError("it is of another store")
    done = record.status == "ok"
    expected = {array.name: array.blocks for array in metadata.layout} if done else {}
    if {name: len(checksums) for name, checksums in record.crc32c.items()} != expected:
        raise ValueError("its arrays are not those of the store")
    if record.nbytes != (metadata.clip_bytes if done else 0):
        raise ValueError("it counts other bytes than a clip of the store has")
