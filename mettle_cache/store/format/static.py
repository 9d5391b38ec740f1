"""A codec's static arrays as files of a store: one chunk of raw values and its crc32c each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import Codec, StaticArrays
from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes
from mettle_cache.store.format.layout import StaticLayout, static_layout

if TYPE_CHECKING:
    from torch import Tensor


def static_contents(layers: Iterable[LayerSpec], segments: int, codec: Codec, static: StaticArrays) -> dict[str, bytes]:
    """The files of a store's static arrays, by path within the store.

    Raises
    ------
    StoreError
        An array is missing, or has another shape or type than the codec declares; names the layer.
    """
    return {array.file: _content(array, static, codec) for array in static_layout(layers, segments, codec)}


def parse_static(layout: Sequence[StaticLayout], contents: Sequence[bytes]) -> dict[str, dict[str, Tensor]]:
    """Static arrays by layer name and part, from the (checked) contents of their files."""
    import torch

    arrays: dict[str, dict[str, Tensor]] = {}
    for array, content in zip(layout, contents, strict=True):
        values = torch.frombuffer(bytearray(content[:-CRC_BYTES]), dtype=getattr(torch, array.codec.dtype))
        blocks = values.view(array.shape)
        for number, layer in enumerate(array.layers):
            arrays.setdefault(layer.name, {})[array.codec.part] = blocks[number]
    return arrays


def _content(array: StaticLayout, static: StaticArrays, codec: Codec) -> bytes:
    pieces = []
    for layer in array.layers:
        tensor = static.get(layer.name, {}).get(array.codec.part)
        have = None if tensor is None else (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if tensor is None or have != (array.codec.dtype, array.codec.shape):
            raise StoreError(
                f"layer {layer.name}: codec {codec.name} stores {array.codec.dtype} {array.codec.shape} as the static "
                f"array {array.codec.part}, not {f'{have[0]} {have[1]}' if have else 'none at all'}",
                hint="static arrays come from the codec's pilot",
            )
        pieces.append(tensor.detach().cpu().contiguous().numpy().tobytes())
    values = b"".join(pieces)
    return values + crc_bytes(crc32c(memoryview(values)))
