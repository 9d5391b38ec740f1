"""The outcome of each clip: finding its commit record, and the manifest, with one row a clip.

A finished store has its manifest on disk; that of an unfinished one is built from its commit records.
"""

from __future__ import annotations

import json
import os
import stat
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreCorruptError
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.commit_log import check_belongs, log_lines, read_log
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import MANIFEST, open_regular, read_table, repair_hint
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord, ReadyRecord

if TYPE_CHECKING:
    import pyarrow as pa

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


@dataclass(frozen=True)
class NamedCommits:
    """The commits that a manifest names: clip ids and digests of the records, by clip index."""

    metadata: StoreMetadata
    clips: Sequence[str]
    digests: Sequence[str]
    # where each line of a log begins, by shard number
    _starts: dict[int, array[int]] = field(default_factory=dict, repr=False)

    def read(self, clip: int) -> CommitRecord:
        """A clip's record. Raises StoreCorruptError when it is not the one that the manifest names."""
        shard = self.metadata.shard(clip)
        line = self._line(clip)
        with suppress(ValueError):
            record = CommitRecord.from_bytes(line)
            check_belongs(record, self.metadata, shard)
            if record.clip == self.clips[clip] and record.index == clip:
                return record
        raise self._not_named(clip)

    def checksums(self, clip: int) -> list[int]:
        """The checksums of a clip's chunks, array after array in the order of the layout, block after block.

        It takes a small part of the time of :meth:`read`, which holds the record against the whole model: the digest
        that the manifest has of the record says already that it is what was written. Raises as that.
        """
        line = self._line(clip)
        with suppress(ValueError, TypeError, LookupError, RecursionError):
            record = json.loads(line)
            arrays = [[int(value, 16) for value in record["crc32c"][array.name]] for array in self.metadata.layout]
            lengths = [array.blocks for array in self.metadata.layout]
            same = record["index"] == clip and record["key"] == self.metadata.record.key_digest
            if same and list(map(len, arrays)) == lengths:
                return [value for array in arrays for value in array]
        raise self._not_named(clip)

    def _line(self, clip: int) -> bytes:
        """The bytes of a clip's record; raises StoreCorruptError where there are none of the digest that is named."""
        try:
            line = self._line_in_order(clip)
            if digest(line) != self.digests[clip]:
                # a log that is being filled has another order, and it changes
                lines = log_lines(self.metadata, self.metadata.shard(clip))
                line = next((line for line in lines if digest(line) == self.digests[clip]), b"")
        except StoreCorruptError as error:
            raise StoreCorruptError(f"clip {self.clips[clip]}: {error.message}", hint=error.hint) from error
        if not line:
            raise self._not_named(clip)
        return line

    def _not_named(self, clip: int) -> StoreCorruptError:
        return StoreCorruptError(
            f"clip {self.clips[clip]}: {self.metadata.commit_path(clip)}: not the record that the manifest names",
            hint=repair_hint(self.metadata.path),
        )

    def _line_in_order(self, clip: int) -> bytes:
        """The line at a clip's place, where a finished store has it."""
        shard = self.metadata.shard(clip)
        if shard not in self._starts:
            self._starts[shard] = array("q", accumulate(map(len, log_lines(self.metadata, shard)), initial=0))
        starts, place = self._starts[shard], clip - self.metadata.members(shard).start
        if place + 1 >= len(starts):
            return b""
        try:
            descriptor = open_regular(self.metadata.log_path(shard))
        except OSError:
            return b""
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return os.pread(file.fileno(), starts[place + 1] - starts[place], starts[place])


def shard_sizes(metadata: StoreMetadata, shard: int, *, finished: bool) -> list[int | str]:
    """The size of the file that counts for a shard number in each array, or what is wrong with it instead."""
    sizes: list[int | str] = []
    for layout in metadata.layout:
        try:
            status = os.lstat(metadata.shard_file(layout, shard, finished=finished))
        except OSError as error:
            sizes.append(error.strerror or str(error))
        else:
            sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else "not a regular file")
    return sizes


def misfit_shards(metadata: StoreMetadata, clip: int, sizes: Sequence[int | str]) -> list[tuple[int, str]]:
    """Shards that do not hold a clip's place: the position of each one's array in the layout, and why.

    ``sizes`` are those of :func:`shard_sizes`. A shard of format 1 has one size and no other.
    """
    misfits: list[tuple[int, str]] = []
    for position, (layout, size) in enumerate(zip(metadata.layout, sizes, strict=True)):
        whole = layout.shard_bytes(metadata.shard(clip))
        if isinstance(size, str):
            misfits.append((position, size))
        elif size < layout.chunk_offset(clip, 0) + layout.clip_bytes or (metadata.format == 1 and size != whole):
            misfits.append((position, f"{size:,} bytes instead of {whole:,}"))
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


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What the manifest and ``READY`` hold of a clip; a commit record takes a hundred times the memory."""

    clip: str
    status: str
    error: str
    source: str
    commit: str

    @classmethod
    def of(cls, commit: CommitRecord, data: bytes) -> ManifestRow:
        """The row of a commit, of which ``data`` are the bytes."""
        return cls(commit.clip, commit.status, commit.error or "", commit.source or "", commit=digest(data))


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
    for shard in metadata.logged_shards():
        for clip, row in log_rows(metadata, shard, ids).items():
            statuses[clip], errors[clip], sources[clip], commits[clip] = row.status, row.error, row.source, row.commit
    return Manifest(ids, *map(tuple, (statuses, errors, sources, commits)))


def log_rows(metadata: StoreMetadata, shard: int, clips: Sequence[str]) -> dict[int, ManifestRow]:
    """The rows of a shard number's clips, by clip index; of several intact lines of a clip the last one counts.

    ``clips`` are the store's ids. A log that is not there or cannot be read has none.
    """
    rows: dict[int, ManifestRow] = {}
    with suppress(StoreCorruptError):
        for line in read_log(metadata, shard):
            if line.record is not None and line.record.clip == clips[line.record.index]:
                rows[line.record.index] = ManifestRow.of(line.record, line.data)
    return rows


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
