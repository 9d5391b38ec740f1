"""What a clip costs on disk, from the layer table alone."""

from __future__ import annotations

from collections.abc import Iterable

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import Codec
from mettle_cache.store.format.layout import store_layout

RECORDS = "records"


def bytes_per_clip(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> dict[str, int]:
    """Bytes of one clip by array, and of its records.

    The arrays' are exact: codes, scales and zeros with their checksums and shard indexes. ``records`` is an upper bound
    of the commit record and the manifest row, for ids and digests of up to 64 characters.
    """
    layout = store_layout(layers, segments, codec)
    found = {array.name: array.shard_bytes for array in layout}
    # a checksum in a record takes 8 digits and 3 signs, an array's or layer's name and its value at most 40
    found[RECORDS] = 1024 + sum(40 + array.blocks * (11 + 40 * (array.part == "codes")) for array in layout)
    return found


def files_per_clip(layers: Iterable[LayerSpec], segments: int, codec: Codec) -> int:
    """Files of one clip: a shard an array, and the commit record."""
    return len(store_layout(layers, segments, codec)) + 1
