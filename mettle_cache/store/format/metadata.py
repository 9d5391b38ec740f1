"""The head of a store: what its root metadata says, checked, and the layout that follows from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from mettle_cache.errors import MettleError, StoreCorruptError, StoreError, StoreMissingError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import Codec, get_codec
from mettle_cache.store.format.files import LARGEST_JSON, read_small, repair_hint
from mettle_cache.store.format.layout import ArrayLayout, group_json, store_layout
from mettle_cache.store.format.records import HeadRecord
from mettle_cache.store.format.spec import FORMAT_VERSION, StoreSpec, digest, digest_of, layer_problems
from mettle_cache.store.format.tables import table_bytes

ROOT = "zarr.json"
READY = "READY"
COMMITS = "commits"
ATTRIBUTE = "mettle"
# no shard of a real backbone comes near this; a declared shape beyond it is refused before anything is allocated
_LARGEST_SHARD = 1 << 33


@dataclass(frozen=True)
class StoreHead:
    """The facts of a store that never change, and the paths of its parts."""

    path: Path
    record: HeadRecord

    @classmethod
    def of_spec(cls, path: Path, spec: StoreSpec) -> StoreHead:
        """The head that a new store of ``spec`` gets."""
        key = spec.key_document()
        document = {
            "key": key,
            "key_digest": digest_of(key),
            "samples": digest(table_bytes(spec.samples)),
            "provenance": spec.provenance,
        }
        return cls(path, HeadRecord.model_validate_json(json.dumps(document)))

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

    @cached_property
    def layout(self) -> tuple[ArrayLayout, ...]:
        return store_layout(self.layers, self.segments, self.codec)

    @cached_property
    def clip_bytes(self) -> int:
        """Bytes of one clip's shards."""
        return sum(array.shard_bytes for array in self.layout)

    def commit_path(self, clip: int) -> Path:
        return self.path / COMMITS / f"{clip:08d}.json"

    def shard_paths(self, clip: int) -> list[Path]:
        return [self.path / array.shard_path(clip) for array in self.layout]

    def metadata_files(self) -> dict[str, bytes]:
        """Every zarr.json of the store and its exact content; the root's comes first."""
        files = {ROOT: group_json({ATTRIBUTE: self.record.sealed()})}
        for array in self.layout:
            files.setdefault(f"{array.name.split('/')[0]}/{ROOT}", group_json({}))
            files[f"{array.name}/{ROOT}"] = array.zarr_json(self.clips)
        return files


class _Attributes(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    mettle: dict[str, JsonValue] | None = None


class _RootGroup(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    attributes: _Attributes = _Attributes()


def load_head(path: Path) -> StoreHead:
    """Read and check a store's root metadata.

    Raises
    ------
    StoreMissingError
        There is no store.
    StoreCorruptError
        The metadata is damaged.
    StoreError
        Something else lies there, or a newer version of the format.
    """
    if path.is_symlink() and not path.exists():
        raise StoreMissingError(f"{path} is a link that leads nowhere")
    if not (path / ROOT).exists():
        raise StoreMissingError(f"there is no token store at {path}", hint="run `mettle extract` to make one")
    data = read_small(path / ROOT, limit=LARGEST_JSON, store=path)
    try:
        document = _RootGroup.model_validate_json(data).attributes.mettle
    except ValidationError as error:
        raise _damaged(path, "is not the metadata of a zarr group") from error
    if document is None:
        raise StoreError(f"{path} is a zarr group, but not a token store of mettle-cache")
    if document.get("format") != FORMAT_VERSION and isinstance(document.get("format"), int):
        raise StoreError(
            f"{path} has store format {document['format']}; this version reads format {FORMAT_VERSION}",
            hint="install the version of mettle-cache that made it, or a newer one",
        )
    head = _parse_head(path, document)
    _refuse_links(head)
    if head.metadata_files()[ROOT] != data:
        raise _damaged(path, "does not fit its own digest")
    return head


def _parse_head(path: Path, document: dict[str, JsonValue]) -> StoreHead:
    body = {name: value for name, value in document.items() if name != "digest"}
    try:
        record = HeadRecord.model_validate_json(json.dumps(body))
        head = StoreHead(path, record)
        problems = list(layer_problems(head.layers))
        oversized = [array.name for array in head.layout if array.blocks * array.chunk_bytes > _LARGEST_SHARD]
    except (ValueError, MettleError) as error:
        raise _damaged(path, f"is not a valid head: {str(error).splitlines()[0]}") from error
    if oversized:
        problems.append(f"arrays beyond any size that is read: {', '.join(oversized)}")
    if problems:
        raise _damaged(path, f"declares {'; '.join(problems)}")
    if record.key_digest != digest_of(record.key.model_dump(mode="json")):
        raise _damaged(path, "does not fit its own key digest")
    return head


def _refuse_links(head: StoreHead) -> None:
    """No folder of a store may lead elsewhere; files are opened so that a link is refused."""
    names = {COMMITS, *(array.name for array in head.layout), *(array.name.split("/")[0] for array in head.layout)}
    for name in sorted(names):
        if (head.path / name).is_symlink():
            raise StoreCorruptError(f"{head.path / name} is a link; a store holds its own files")


def _damaged(path: Path, what: str) -> StoreCorruptError:
    return StoreCorruptError(f"{path / ROOT} {what}", hint=repair_hint(path))
