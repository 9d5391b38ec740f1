"""Where each byte of a store lies: arrays, shards and chunks as FORMAT.md section 3 fixes them.

An array holds what is stored of a stage. A chunk is one block of one clip, followed by its crc32c; a shard is one file
with the chunks of some clips, clip by clip, then the index. Nothing is compressed, so every offset follows from the
layer table: no index has to be read to find a chunk. A static array, which some codecs have, is one file of one chunk
for all clips.

In format 2 a chunk is self-contained: everything that the codec stores of a block, one array a stage. In format 1
codes, scales and zeros are arrays of their own, with a shard a clip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property

from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.store.format.codecs import CODES, Codec, CodecArray
from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes

_INDEX_ENTRY_BYTES = 16
# the offset and length of a chunk that is not there
_EMPTY = 2**64 - 1
# by default a shard number's files take no more than this, and there are at least so many shard numbers
_SHARDS_BYTES = 1 << 30
_LEAST_SHARDS = 16
MOST_CLIPS_PER_SHARD = 4096
# no shard of a real backbone comes near these; beyond them a declared shape is refused before anything is allocated
_LARGEST_SHARD = 1 << 33
_MOST_CHUNKS = 1 << 20
_ITEM_BYTES = {
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
STATIC = "static"
RECORDS = "records"
_LITTLE: dict[str, object] = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C: dict[str, object] = {"name": "crc32c"}


@dataclass(frozen=True)
class ArrayLayout:
    """One zarr array with shards: what is stored of a stage.

    Attributes
    ----------
    name
        ``visual/s3``; in format 1 also ``visual/s3_scale`` and ``visual/s3_zero``.
    layers
        The layers in the order of the block axis.
    fields
        The codec's declarations of what a chunk holds, in the order of their bytes; one in format 1.
    clips
        How many clips the store has.
    clips_each
        How many clips a shard holds, the last one maybe fewer; None in format 1, whose shards hold one.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    fields: tuple[CodecArray, ...]
    clips: int
    clips_each: int | None = None

    @property
    def _each(self) -> int:
        return self.clips_each or 1

    @property
    def blocks(self) -> int:
        return len(self.layers)

    @property
    def shards(self) -> int:
        """How many shards it takes to hold all clips."""
        return -(-self.clips // self._each)

    @property
    def readable(self) -> bool:
        """Whether a shard is of a size that is written and read."""
        chunks = self.blocks * self._each
        return chunks <= _MOST_CHUNKS and self._each * self.clip_bytes <= _LARGEST_SHARD

    @cached_property
    def field_bytes(self) -> tuple[int, ...]:
        """Bytes of each field in a chunk."""
        return tuple(math.prod(field.shape) * _ITEM_BYTES[field.dtype] for field in self.fields)

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk without its checksum."""
        return sum(self.field_bytes)

    @property
    def contents(self) -> str:
        """What a chunk holds, for messages."""
        return self.fields[0].part if len(self.fields) == 1 else "tokens"

    @cached_property
    def clip_bytes(self) -> int:
        """Bytes of a clip's chunks in a shard, with their checksums."""
        return self.blocks * (self.chunk_bytes + CRC_BYTES)

    def shard(self, clip: int) -> int:
        """The number of the shard that holds a clip."""
        return clip // self._each

    def members(self, shard: int) -> range:
        """The clips of a shard."""
        each = self._each
        return range(shard * each, min((shard + 1) * each, self.clips))

    def chunk_offset(self, clip: int, block: int) -> int:
        """Where a chunk begins in its shard."""
        return clip % self._each * self.clip_bytes + block * (self.chunk_bytes + CRC_BYTES)

    def index_offset(self, shard: int) -> int:
        """Where the index of a shard begins: behind the place of its last clip."""
        return len(self.members(shard)) * self.clip_bytes

    def shard_bytes(self, shard: int) -> int:
        return self.index_offset(shard) + self.index_bytes

    @property
    def index_bytes(self) -> int:
        return self._each * self.blocks * _INDEX_ENTRY_BYTES + CRC_BYTES

    def index(self, shard: int, stored: Container[int]) -> bytes:
        """The index that a shard ends with; ``stored`` has the clips that are there, all others are empty entries."""
        import numpy as np

        members, length = self.members(shard), self.chunk_bytes + CRC_BYTES
        entries = np.full((self._each, self.blocks, 2), _EMPTY, "<u8")
        for place, clip in enumerate(members):
            if clip in stored:
                entries[place, :, 0] = self.chunk_offset(clip, 0) + length * np.arange(self.blocks)
                entries[place, :, 1] = length
        content = entries.tobytes()
        return content + crc_bytes(crc32c(memoryview(content)))

    def shard_name(self, shard: int) -> str:
        """The file of a shard, in the array's folder; one flat folder an array."""
        return f"c.{shard}{self._shard_suffix}"

    @cached_property
    def _shard_suffix(self) -> str:
        return ".0" * (1 + (len(self.fields[0].shape) if self.clips_each is None else 1))

    def shard_path(self, shard: int) -> str:
        """The file of a shard, relative to the store."""
        return f"{self.name}/{self.shard_name(shard)}"

    def span(self, blocks: range) -> str:
        """The layers of some blocks, for messages: the first to the last."""
        first, last = self.layers[blocks[0]].name, self.layers[blocks[-1]].name
        return first if first == last else f"{first} to {last}"

    def zarr_json(self) -> bytes:
        """The array's metadata, byte for byte as zarr-python 3.1.6 writes it."""
        whole = self.clips_each is not None
        dtype = "uint8" if whole else self.fields[0].dtype
        chunk = (self.chunk_bytes,) if whole else self.fields[0].shape
        sharding = {
            "chunk_shape": [1, 1, *chunk],
            "codecs": _chunk_codecs(dtype),
            "index_codecs": [_LITTLE, _CRC32C],
            "index_location": "end",
        }
        shape = [self.blocks, *chunk]
        return _array_json(
            shape=[self.clips, *shape],
            chunk=[self._each, *shape],
            dtype=dtype,
            codecs=[{"name": "sharding_indexed", "configuration": sharding}],
            axes=["clip", "block", *(("byte",) if whole else self.fields[0].axes)],
        )


@dataclass(frozen=True)
class StaticLayout:
    """One zarr array that belongs to all clips: ``static/visual/s3_basis``; fields as of :class:`ArrayLayout`."""

    name: str
    layers: tuple[LayerSpec, ...]
    codec: CodecArray

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(blocks, *shape)``."""
        return (len(self.layers), *self.codec.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without the checksum."""
        return math.prod(self.shape) * _ITEM_BYTES[self.codec.dtype]

    @property
    def file(self) -> str:
        """The file with the values and their crc32c, relative to the store."""
        return f"{self.name}/c{'.0' * len(self.shape)}"

    def zarr_json(self) -> bytes:
        """The array's metadata."""
        return _array_json(
            shape=list(self.shape),
            chunk=list(self.shape),
            dtype=self.codec.dtype,
            codecs=_chunk_codecs(self.codec.dtype),
            axes=["block", *self.codec.axes],
        )


def store_layout(
    layers: Iterable[LayerSpec], segments: int, codec: Codec, *, clips: int, clips_each: int | None
) -> tuple[ArrayLayout, ...]:
    """The arrays of a store with shards, in the order of the stages; in format 1 codes come before what goes with them.

    Raises
    ------
    StoreError
        The codec cannot store such layers.
    """
    layout: list[ArrayLayout] = []
    for name, members in group_by_array(layers).items():
        fields = tuple(array for array in codec.arrays(members, segments) if not array.static)
        if clips_each is not None:
            layout.append(ArrayLayout(name, members, fields, clips, clips_each))
            continue
        layout += [
            ArrayLayout(name if field.part == CODES else f"{name}_{field.part}", members, (field,), clips)
            for field in fields
        ]
    return tuple(layout)


def static_layout(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> tuple[StaticLayout, ...]:
    """The static arrays of a store, stage by stage; none for most codecs."""
    return tuple(
        StaticLayout(f"{STATIC}/{name}_{array.part}", members, array)
        for name, members in group_by_array(layers).items()
        for array in codec.arrays(members, segments)
        if array.static
    )


def clip_layout(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> tuple[ArrayLayout, ...]:
    """The arrays of a store of one clip, for what is said of a clip alone. Raises StoreError as above."""
    return store_layout(layers, segments, codec, clips=1, clips_each=1)


def bytes_per_clip(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> dict[str, int]:
    """Bytes of one clip by array, and of its records.

    The arrays' are exact: chunks with their checksums. ``records`` is an upper bound of the entries of shard indexes,
    the commit record and the manifest row, for ids and digests of up to 64 characters.
    """
    layout = clip_layout(layers, segments, codec)
    sizes = {array.name: array.clip_bytes for array in layout}
    # a checksum in a record takes 8 digits and 3 signs, an array's or layer's name and its value at most 40
    sizes[RECORDS] = 1024 + sum(40 + (11 + 40) * array.blocks + array.index_bytes for array in layout)
    return sizes


def default_clips_per_shard(layers: Iterable[LayerSpec], segments: int, codec: Codec, clips: int) -> int:
    """How many clips a shard holds unless somebody chooses otherwise.

    The largest power of two with which a shard number's files, of all stages together, take at most 1 GiB, and with
    which there are at least 16 shard numbers (or as many as clips, if there are fewer clips); at most 4,096.
    """
    layout = clip_layout(layers, segments, codec)
    clip_bytes, blocks = sum(array.clip_bytes for array in layout), max(array.blocks for array in layout)
    each = 1
    while (
        2 * each <= min(MOST_CLIPS_PER_SHARD, _MOST_CHUNKS // blocks)
        and 2 * each * clip_bytes <= _SHARDS_BYTES
        and -(-clips // (2 * each)) >= min(_LEAST_SHARDS, clips)
    ):
        each *= 2
    return each


def shard_files(
    layers: Iterable[LayerSpec],
    segments: int,
    codec: Codec,
    *,
    clips: int,
    clips_each: int,
    written: Iterable[int] | None = None,
) -> int:
    """How many files hold the clips: of each shard number one an array, and the log.

    ``written`` are the indexes of the clips that have tokens, None for all: a shard without any has its log alone.
    """
    layout = store_layout(layers, segments, codec, clips=clips, clips_each=clips_each)
    shards = layout[0].shards
    filled = shards if written is None else len({index // clips_each for index in written})
    return filled * len(layout) + shards


def _chunk_codecs(dtype: str) -> list[dict[str, object]]:
    return [_LITTLE if _ITEM_BYTES[dtype] > 1 else {"name": "bytes"}, _CRC32C]


def _array_json(
    *, shape: list[int], chunk: list[int], dtype: str, codecs: list[dict[str, object]], axes: list[str]
) -> bytes:
    return render_zarr_json(
        {
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            # a chunk that is missing should be loud wherever the type can say so
            "fill_value": "NaN" if dtype.startswith("float") else 0,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": axes,
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def render_zarr_json(document: dict[str, object]) -> bytes:
    """A zarr.json as zarr-python renders it."""
    return json.dumps(document, indent=2, allow_nan=False).encode()


def group_json(attributes: dict[str, object]) -> bytes:
    """A group's zarr.json."""
    return render_zarr_json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})
