"""The metadata of a store: reading and checking the root's, everything that follows from it, and the record ``READY``.

``READY`` marks a finished store and holds the digest of every file beside the shards.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from mettle_cache.errors import (
    MettleError,
    StoreCorruptError,
    StoreError,
    StoreMissingError,
    StoreUnfinishedError,
)
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.clip_ids import read_clip_ids
from mettle_cache.store.format.codecs import CODECS, Codec, codec_version, get_codec
from mettle_cache.store.format.digests import CRC_BYTES, digest, digest_of
from mettle_cache.store.format.files import (
    CLIPS_FILE,
    LARGEST_RECORD,
    LARGEST_TABLE,
    MANIFEST,
    PARTIAL,
    SAMPLES,
    read_expected,
    read_small,
    read_table,
    repair_hint,
    table_bytes,
)
from mettle_cache.store.format.layout import ArrayLayout, StaticLayout, group_json, static_layout, store_layout
from mettle_cache.store.format.records import ReadyRecord, RootRecord
from mettle_cache.store.format.spec import FORMAT_VERSION, StoreSpec, layer_problems
from mettle_cache.store.format.static import parse_static

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

ROOT = "zarr.json"
READY = "READY"
COMMITS = "commits"
# what only a store holds beside its root metadata
RECORDS = (READY, COMMITS, CLIPS_FILE, SAMPLES, MANIFEST)
# a file a shard number; in format 1 a file a clip
_RECORD_NAMES = {1: re.compile(r"([0-9]{8})\.json"), 2: re.compile(r"([0-9]{8})\.jsonl")}
ATTRIBUTE = "mettle"
RESUME_HINT = "run the same mettle extract or recode command again; it goes on where the last run stopped"
ROOT_HINT = (
    "run the same mettle extract command again: it writes the file anew where the clips' records show that they are "
    "that command's, and keeps the clips"
)


@dataclass(frozen=True)
class StoreMetadata:
    """The facts of a store that never change, and the paths of its files."""

    path: Path
    record: RootRecord

    @classmethod
    def of_spec(cls, path: Path, spec: StoreSpec) -> StoreMetadata:
        """The metadata that a new store of ``spec`` gets."""
        key = spec.key_document()
        document = {
            "key": key,
            "key_digest": digest_of(key),
            "samples": digest(table_bytes(spec.samples)),
            "provenance": spec.provenance,
        }
        return cls(path, RootRecord.model_validate_json(json.dumps(document)))

    @property
    def clips(self) -> int:
        return self.record.key.clips.count

    @property
    def segments(self) -> int:
        return self.record.key.segments

    @cached_property
    def codec(self) -> Codec:
        return get_codec(self.record.key.codec)

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        return tuple(layer.to_layer() for layer in self.record.key.layers)

    @property
    def format(self) -> int:
        return self.record.format

    @cached_property
    def layout(self) -> tuple[ArrayLayout, ...]:
        each = self.record.key.clips_per_shard
        return store_layout(self.layers, self.segments, self.codec, clips=self.clips, clips_each=each)

    @cached_property
    def static_layout(self) -> tuple[StaticLayout, ...]:
        return static_layout(self.layers, self.segments, self.codec)

    @cached_property
    def clip_bytes(self) -> int:
        """Bytes of one clip in its shards; in format 1, whose shards hold one, with their indexes."""
        return sum(array.shard_bytes(0) if self.format == 1 else array.clip_bytes for array in self.layout)

    @property
    def clips_each(self) -> int:
        """How many clips a shard holds, the last one maybe fewer; 1 in format 1."""
        return self.record.key.clips_per_shard or 1

    @property
    def shards(self) -> range:
        """The numbers of the shards: of each number one file an array, and one with the records of its clips."""
        return range(self.layout[0].shards)

    def shard(self, clip: int) -> int:
        """The number of the shards that hold a clip."""
        return clip // self.clips_each

    def members(self, shard: int) -> range:
        """The clips of a shard number."""
        return self.layout[0].members(shard)

    def log_path(self, shard: int) -> Path:
        """The file with the records of a shard number's clips."""
        return self.path / COMMITS / f"{shard:08d}.json{'l' if self.format > 1 else ''}"

    def commit_path(self, clip: int) -> Path:
        """The file that holds a clip's record."""
        return self.log_path(self.shard(clip))

    def logged_shards(self) -> list[int]:
        """Shard numbers that have a file of records, intact or not: what is there, whatever number is declared."""
        try:
            names = os.listdir(self.path / COMMITS)
        except OSError:
            return []
        matches = map(_RECORD_NAMES[self.format].fullmatch, names)
        return [number for number in sorted(int(match[1]) for match in matches if match) if number in self.shards]

    def shard_file(self, array: ArrayLayout, shard: int, *, finished: bool) -> Path:
        """The file that counts for a shard of an array.

        In a finished store it is the shard. In any other it is its ``.partial`` where there is one: that holds all that
        the shard holds, but for clips that are being written again.
        """
        path = self.path / array.shard_path(shard)
        partial = path.with_name(f"{path.name}{PARTIAL}")
        return partial if not finished and os.path.lexists(partial) else path

    def shard_paths(self, clip: int) -> list[Path]:
        """The shards that hold a clip of a finished store."""
        return [self.path / array.shard_path(array.shard(clip)) for array in self.layout]

    def metadata_files(self) -> dict[str, bytes]:
        """Every zarr.json of the store and its exact content; the root's comes first."""
        files = {ROOT: group_json({ATTRIBUTE: self.record.sealed()})}
        arrays = {array.name: array.zarr_json() for array in self.layout}
        arrays |= {array.name: array.zarr_json() for array in self.static_layout}
        for name, content in arrays.items():
            for group in reversed(PurePosixPath(name).parents[:-1]):
                files.setdefault(f"{group}/{ROOT}", group_json({}))
            files[f"{name}/{ROOT}"] = content
        return files

    def static_digests(self) -> dict[str, str]:
        """Name and digest of every file that is written when a store is made."""
        files = {name: digest(content) for name, content in self.metadata_files().items()}
        key = self.record.key
        return {**files, CLIPS_FILE: key.clips.digest, SAMPLES: self.record.samples, **(key.static or {})}

    def read_clip_ids(self) -> tuple[str, ...]:
        """The ids, in the order of the clip axis. Raises StoreCorruptError for a damaged ``clips.json``."""
        clips = self.record.key.clips
        return read_clip_ids(self.path, count=clips.count, expected=clips.digest)

    def read_samples(self) -> pa.Table:
        """The annotation rows. Raises StoreCorruptError for a damaged ``samples.parquet``."""
        path = self.path / SAMPLES
        table = read_table(path, expected=self.record.samples, store=self.path)
        if table.num_rows != self.record.key.samples.rows:
            raise StoreCorruptError(f"{path}: not the samples that the store's key names", hint=repair_hint(self.path))
        return table

    def read_static(self) -> dict[str, dict[str, Tensor]]:
        """The codec's static arrays by layer name and part; a layer of most codecs has none.

        Raises
        ------
        StoreCorruptError
            A file is missing or damaged.
        """
        digests = self.record.key.static or {}
        contents = [
            read_expected(self.path / array.file, expected=digests[array.file], limit=LARGEST_TABLE, store=self.path)
            for array in self.static_layout
        ]
        for array, content in zip(self.static_layout, contents, strict=True):
            if len(content) != array.nbytes + CRC_BYTES:
                raise StoreCorruptError(f"{self.path / array.file}: {len(content):,} bytes, not those of its array")
        return parse_static(self.static_layout, contents)


class _Attributes(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    mettle: dict[str, JsonValue] | None = None


class _RootGroup(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    attributes: _Attributes = _Attributes()


def load_metadata(path: Path) -> StoreMetadata:
    """Read and check a store's root metadata.

    Raises
    ------
    StoreMissingError
        There is no store.
    StoreUnfinishedError
        The run that was making a store was stopped before it wrote them.
    StoreCorruptError
        The metadata is damaged.
    StoreError
        Something else lies there, or a newer version of the format.
    """
    if path.is_symlink() and not path.exists():
        raise StoreMissingError(f"{path} is a link that leads nowhere")
    if not os.path.lexists(path / ROOT):
        raise _without_root(path)
    data = read_small(path / ROOT, limit=LARGEST_RECORD, store=path)
    try:
        document = _RootGroup.model_validate_json(data).attributes.mettle
    except ValidationError as error:
        raise damaged_root(path, "is not the metadata of a zarr group") from error
    if document is None:
        if _holds_records(path):
            raise damaged_root(path, "is not the metadata of a token store")
        raise StoreError(f"{path} is a zarr group, but not a token store of mettle-cache")
    version = document.get("format")
    if isinstance(version, int) and FORMAT_VERSION < version < 1000:
        raise StoreError(
            f"{path} has store format {version}; this version reads formats 1 to {FORMAT_VERSION}",
            hint="install the version of mettle-cache that made it, or a newer one",
        )
    metadata = _parse(path, document, data)
    refuse_links(metadata)
    return metadata


def _without_root(path: Path) -> StoreError:
    """The error for a folder without root metadata."""
    names = os.listdir(path) if os.access(path, os.R_OK) and path.is_dir() else []
    if _holds_records(path):
        return damaged_root(path, "is missing")
    if names and all(name.startswith(f"{ROOT}.") for name in names):
        return StoreUnfinishedError(f"{path} is unfinished: its making was stopped as it began", hint=RESUME_HINT)
    return StoreMissingError(f"there is no token store at {path}", hint="make one with: mettle extract --dataset NAME")


def _holds_records(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in RECORDS)


def read_ready(metadata: StoreMetadata) -> ReadyRecord | None:
    """The record, or None for a store that is not finished.

    Raises
    ------
    StoreCorruptError
        It is damaged or of another store.
    """
    path = metadata.path / READY
    if not os.path.lexists(path):
        return None
    data = read_small(path, limit=LARGEST_RECORD, store=metadata.path)
    try:
        record = ReadyRecord.from_bytes(data)
    except ValueError as error:
        raise StoreCorruptError(f"{path}: {str(error).splitlines()[0]}", hint=repair_hint(metadata.path)) from error
    vouched = {name: value for name, value in record.files.items() if name != MANIFEST}
    if record.key != metadata.record.key_digest or vouched != metadata.static_digests() or MANIFEST not in record.files:
        raise StoreCorruptError(f"{path}: it is of another store", hint=repair_hint(metadata.path))
    return record


def _parse(path: Path, document: dict[str, JsonValue], data: bytes) -> StoreMetadata:
    body = {name: value for name, value in document.items() if name != "digest"}
    try:
        record = RootRecord.model_validate_json(json.dumps(body))
        metadata = StoreMetadata(path, record)
        problems = list(layer_problems(metadata.layers))
        own_key = record.key_digest == digest_of(record.key.model_dump(mode="json"))
        own_key = own_key and record.format == record.key.format
        intact = group_json({ATTRIBUTE: record.sealed()}) == data
    except (ValueError, MettleError) as error:
        raise damaged_root(path, f"is not valid: {str(error).splitlines()[0]}") from error
    if problems:
        raise damaged_root(path, f"declares {'; '.join(problems)}")
    if not own_key:
        raise damaged_root(path, "does not fit its own key digest")
    if not intact:
        raise damaged_root(path, "does not fit its own digest")
    _check_layout(metadata)
    return metadata


def _check_layout(metadata: StoreMetadata) -> None:
    """Refuse arrays that the codec does not store, or that no writer makes."""
    path, name = metadata.path, metadata.record.key.codec
    if name not in CODECS and name not in CODECS.broken:
        raise StoreError(
            f"{path} is written in the codec {name!a}, which is not installed here",
            hint=f"install the package that brings it; there are {', '.join(CODECS.names())}",
        )
    version = metadata.record.key.codec_version or 1
    if version > codec_version(metadata.codec):
        raise StoreError(
            f"{path} is written in version {version} of the codec {name}; here is version "
            f"{codec_version(metadata.codec)}",
            hint="install the version of the package that wrote it, or a newer one",
        )
    try:
        problems = _static_problems(metadata)
        oversized = [array.name for array in metadata.layout if not array.readable]
    except StoreError as error:
        raise damaged_root(path, f"is not valid: {error.message}") from error
    if oversized:
        problems.append(f"arrays beyond any size that is read: {', '.join(oversized)}")
    if problems:
        raise damaged_root(path, f"declares {'; '.join(problems)}")


def _static_problems(metadata: StoreMetadata) -> list[str]:
    expected = [array.file for array in metadata.static_layout]
    if sorted(metadata.record.key.static or {}) == sorted(expected):
        return []
    return [f"other static arrays than codec {metadata.record.key.codec} has ({', '.join(expected) or 'none'})"]


def refuse_links(metadata: StoreMetadata) -> None:
    """Refuse a store of which a folder leads elsewhere; files are opened so that a link is refused.

    Raises
    ------
    StoreCorruptError
        Names the folder.
    """
    folders = [PurePosixPath(name).parent for name in metadata.metadata_files()]
    for name in sorted({COMMITS, *(str(folder) for folder in folders if folder.name)}):
        if (metadata.path / name).is_symlink():
            raise StoreCorruptError(
                f"{metadata.path / name} is a link; a store holds its own files",
                hint="put the folder itself in the link's place",
            )


def damaged_root(path: Path, what: str) -> StoreCorruptError:
    """The error for root metadata of which ``what`` is wrong."""
    return StoreCorruptError(f"{path / ROOT} {what}", hint=ROOT_HINT)
