"""Where each byte of a store lies: arrays, shards and chunks as FORMAT.md section 3 fixes them.

A shard is one file for a clip and an array; it holds one chunk a block, each followed by its crc32c, then the index.
Nothing is compressed, so every offset follows from the layer table: no index has to be read to find a chunk. A static
array, which some codecs have, is one file of one chunk for all clips.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.store.format.codecs import CODES, Codec, CodecArray
from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes

_INDEX_ENTRY_BYTES = 16
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
    """One zarr array with a shard a clip: the codes, the scales or the zeros of a stage.

    Attributes
    ----------
    name
        ``visual/s3``, ``visual/s3_scale`` or ``visual/s3_zero``.
    layers
        The layers in the order of the block axis.
    codec
        The codec's declaration of the array.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    codec: CodecArray

    @property
    def part(self) -> str:
        """The field of :class:`~mettle_cache.tokens.LayerTokens` that is stored: ``codes`` or the name of a part."""
        return self.codec.part

    @property
    def dtype(self) -> str:
        return self.codec.dtype

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """``(T, N, C)`` for codes, with C stored values a row; ``(T, D)`` for scales and zeros."""
        return self.codec.shape

    @property
    def blocks(self) -> int:
        return len(self.layers)

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk without its checksum."""
        return math.prod(self.chunk_shape) * _ITEM_BYTES[self.dtype]

    @property
    def index_offset(self) -> int:
        return self.blocks * (self.chunk_bytes + CRC_BYTES)

    @property
    def shard_bytes(self) -> int:
        return self.index_offset + len(self.index)

    def chunk_offset(self, block: int) -> int:
        return block * (self.chunk_bytes + CRC_BYTES)

    @cached_property
    def index(self) -> bytes:
        """The shard index that every shard of this array ends with."""
        stored = self.chunk_bytes + CRC_BYTES
        entries = b"".join(struct.pack("<QQ", self.chunk_offset(block), stored) for block in range(self.blocks))
        return entries + crc_bytes(crc32c(memoryview(entries)))

    def shard_name(self, clip: int) -> str:
        """The file of one clip, in the array's folder; one flat folder an array."""
        return f"c.{clip}{self._shard_suffix}"

    @cached_property
    def _shard_suffix(self) -> str:
        return ".0" * (1 + len(self.chunk_shape))

    def shard_path(self, clip: int) -> str:
        """The file of one clip, relative to the store."""
        return f"{self.name}/{self.shard_name(clip)}"

    def span(self, blocks: range) -> str:
        """The layers of some blocks, for messages: the first to the last."""
        first, last = self.layers[blocks[0]].name, self.layers[blocks[-1]].name
        return first if first == last else f"{first} to {last}"

    def zarr_json(self, clips: int) -> bytes:
        """The array's metadata, byte for byte as zarr-python 3.1.6 writes it."""
        sharding = {
            "chunk_shape": [1, 1, *self.chunk_shape],
            "codecs": _chunk_codecs(self.dtype),
            "index_codecs": [_LITTLE, _CRC32C],
            "index_location": "end",
        }
        shape = [self.blocks, *self.chunk_shape]
        return _array_json(
            shape=[clips, *shape],
            chunk=[1, *shape],
            dtype=self.dtype,
            codecs=[{"name": "sharding_indexed", "configuration": sharding}],
            axes=["clip", "block", *self.codec.axes],
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


def store_layout(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> tuple[ArrayLayout, ...]:
    """The arrays of a store with shards, each stage's codes before what goes with them.

    Raises
    ------
    StoreError
        The codec cannot store such layers.
    """
    return tuple(
        ArrayLayout(name if array.part == CODES else f"{name}_{array.part}", members, array)
        for name, members, array in _declared(layers, segments, codec)
        if not array.static
    )


def static_layout(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> tuple[StaticLayout, ...]:
    """The static arrays of a store, stage by stage; none for most codecs."""
    return tuple(
        StaticLayout(f"{STATIC}/{name}_{array.part}", members, array)
        for name, members, array in _declared(layers, segments, codec)
        if array.static
    )


def bytes_per_clip(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> dict[str, int]:
    """Bytes of one clip by array, and of its records.

    The arrays' are exact: codes, scales and zeros with their checksums and shard indexes. ``records`` is an upper bound
    of the commit record and the manifest row, for ids and digests of up to 64 characters.
    """
    layout = store_layout(layers, segments, codec)
    sizes = {array.name: array.shard_bytes for array in layout}
    # a checksum in a record takes 8 digits and 3 signs, an array's or layer's name and its value at most 40
    sizes[RECORDS] = 1024 + sum(
        40 + 11 * array.blocks + 40 * (len(array.layers) if array.part == CODES else 0) for array in layout
    )
    return sizes


def files_per_clip(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> int:
    """Files of one clip: a shard an array, and the commit record."""
    return len(store_layout(layers, segments, codec)) + 1


def _declared(
    layers: Iterable[LayerSpec], segments: int, codec: Codec
) -> Iterator[tuple[str, tuple[LayerSpec, ...], CodecArray]]:
    for name, members in group_by_array(layers).items():
        for array in codec.arrays(members, segments):
            yield name, members, array


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
