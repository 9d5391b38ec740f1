"""A codec's static arrays as files of a store: one chunk of raw values and its crc32c each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreCorruptError, StoreError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import Codec, StaticArrays
from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes
from mettle_cache.store.format.files import read_small
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


def find_static(
    path: Path, layers: Sequence[LayerSpec], segments: int, codec: Codec
) -> dict[str, dict[str, Tensor]] | None:
    """Static arrays that lie in a store whose root metadata may be lost; None unless all of them are there and whole.

    They are those of the layers' shapes, with the checksums that their files end with; whose they are is for the
    store's key to say.
    """
    layout = static_layout(layers, segments, codec)
    contents = []
    for array in layout:
        try:
            content = read_small(path / array.file, limit=array.nbytes + CRC_BYTES, store=path)
        except StoreCorruptError:
            return None
        whole = memoryview(content)
        if len(content) != array.nbytes + CRC_BYTES or content[-CRC_BYTES:] != crc_bytes(crc32c(whole[:-CRC_BYTES])):
            return None
        contents.append(content)
    return parse_static(layout, contents)


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
