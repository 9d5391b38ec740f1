"""Where each byte of a store lies: arrays, shards and chunks as FORMAT.md section 3 fixes them.

A shard is one file for a clip and an array; it holds one chunk a block, each followed by its crc32c, then the index.
Nothing is compressed, so every offset follows from the layer table: no index has to be read to find a chunk.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.store.format.checksum import CRC_BYTES, crc32c, crc_bytes
from mettle_cache.store.format.codecs import Codec

_INDEX_ENTRY_BYTES = 16
_ITEM_BYTES = {"float16": 2, "int8": 1, "uint8": 1}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_AXES = {5: ("clip", "block", "segment", "token", "channel"), 4: ("clip", "block", "segment", "channel")}


@dataclass(frozen=True)
class ArrayLayout:
    """One zarr array: the codes, the scales or the zeros of a stage.

    Attributes
    ----------
    name
        ``visual/s3``, ``visual/s3_scale`` or ``visual/s3_zero``.
    part
        The field of :class:`~mettle_cache.tokens.LayerTokens` that is stored: ``codes``, ``scale`` or ``zero``.
    layers
        The layers in the order of the block axis.
    chunk_shape
        ``(T, N, D)`` for codes, with D stored values a token; ``(T, D)`` for scales and zeros.
    """

    name: str
    part: str
    layers: tuple[LayerSpec, ...]
    dtype: str
    chunk_shape: tuple[int, ...]

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

    def zarr_json(self, clips: int) -> bytes:
        """The array's metadata, byte for byte as zarr-python 3.1.6 writes it."""
        inner = [_LITTLE if self.dtype == "float16" else {"name": "bytes"}, _CRC32C]
        sharding = {
            "chunk_shape": [1, 1, *self.chunk_shape],
            "codecs": inner,
            "index_codecs": [_LITTLE, _CRC32C],
            "index_location": "end",
        }
        shape = [self.blocks, *self.chunk_shape]
        return render_zarr_json(
            {
                "shape": [clips, *shape],
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *shape]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
                # a chunk that is missing should be loud wherever the type can say so
                "fill_value": "NaN" if self.dtype == "float16" else 0,
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
                "attributes": {},
                "dimension_names": list(_AXES[2 + len(self.chunk_shape)]),
                "zarr_format": 3,
                "node_type": "array",
                "storage_transformers": [],
            }
        )


def store_layout(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> tuple[ArrayLayout, ...]:
    """The arrays of a store, each stage's codes before its scales and zeros."""
    arrays: list[ArrayLayout] = []
    dtype = str(codec.code_dtype).removeprefix("torch.")
    for name, members in group_by_array(layers).items():
        first = members[0]
        arrays.append(
            ArrayLayout(name, "codes", members, dtype, (segments, first.tokens, codec.code_width(first.width)))
        )
        if codec.has_scale:
            for part in ("scale", "zero"):
                arrays.append(ArrayLayout(f"{name}_{part}", part, members, "float16", (segments, first.width)))
    return tuple(arrays)


def render_zarr_json(document: dict[str, object]) -> bytes:
    """A zarr.json as zarr-python renders it."""
    return json.dumps(document, indent=2, allow_nan=False).encode()


def group_json(attributes: dict[str, object]) -> bytes:
    """A group's zarr.json."""
    return render_zarr_json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})
