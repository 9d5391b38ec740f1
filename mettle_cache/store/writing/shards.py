"""One clip's tokens as its part of the shard files, with checksums and the largest value of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.errors import TokensError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODES
from mettle_cache.store.format.digests import crc32c, crc_bytes
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.writing.durable import Buffer
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True)
class ClipChunks:
    """A clip's part of a shard, without a copy of the tokens: field, field, ..., checksum of these, next block."""

    array: ArrayLayout
    buffers: tuple[Buffer, ...]
    checksums: tuple[str, ...]


def build_chunks(array: ArrayLayout, tokens: Mapping[str, LayerTokens]) -> ClipChunks:
    """The chunks of one array from a clip's tokens by layer name (checked by :func:`check_tokens`)."""
    buffers: list[Buffer] = []
    checksums: list[str] = []
    for layer in array.layers:
        tensors = stored_arrays(tokens[layer.name])
        fields = [tensor_bytes(tensors[field.part]) for field in array.fields]
        checksum = 0
        for field in fields:
            checksum = crc32c(field, checksum) if field.nbytes else checksum
        buffers += [*fields, crc_bytes(checksum)]
        checksums.append(f"{checksum:08x}")
    return ClipChunks(array, tuple(buffers), tuple(checksums))


def stored_arrays(tokens: LayerTokens) -> dict[str, Tensor]:
    """The tensors of a layer's tokens that are stored, by the name of the part."""
    return {CODES: tokens.codes, **tokens.parts}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in C order; a view of it if it is contiguous and on the CPU."""
    flat = tensor.detach().to("cpu").contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


def check_tokens(tokens: Mapping[str, LayerTokens], layout: Sequence[ArrayLayout], clip: str) -> None:
    """Refuse tokens that are not those of the layer table, stored as the codec says.

    Raises
    ------
    TokensError
        A layer is missing or surplus, or a tensor has another shape or type; names the clip and the layer.
    """
    table = {layer.name for array in layout for layer in array.layers}
    if set(tokens) != table:
        missing, surplus = sorted(table - set(tokens)), sorted(set(tokens) - table)
        raise TokensError(
            f"clip {clip}: layers {missing or 'none'} are missing, {surplus or 'none'} are not of this store"
        )
    for array in layout:
        for layer in array.layers:
            stored = stored_arrays(tokens[layer.name])
            for field in array.fields:
                part = stored.pop(field.part, None)
                have = (None, None) if part is None else (str(part.dtype).removeprefix("torch."), tuple(part.shape))
                if have != (field.dtype, field.shape):
                    raise TokensError(
                        f"clip {clip}, layer {layer.name}: {field.part} are {have[0]} {have[1]}, "
                        f"the store holds {field.dtype} {field.shape}"
                    )
            if stored:
                raise TokensError(
                    f"clip {clip}, layer {layer.name}: the store holds no {', '.join(sorted(stored))}, "
                    "which the tokens have"
                )


def largest_values(tokens: Mapping[str, LayerTokens], layers: Sequence[LayerSpec], clip: str) -> dict[str, float]:
    """The largest decoded |x| of each layer, to six digits.

    Raises
    ------
    TokensError
        It is not finite; names the clip and the layer.
    """
    largest_by_layer: dict[str, float] = {}
    for layer in layers:
        largest = float(_largest(tokens[layer.name]))
        if not largest < float("inf"):
            raise TokensError(
                f"clip {clip}, layer {layer.name}: tokens decode to values that are not finite",
                hint="encode with a codec of mettle_cache.store.format.codecs; it refuses what it cannot hold",
            )
        largest_by_layer[layer.name] = float(f"{largest:.6g}")
    return largest_by_layer


def _largest(tokens: LayerTokens) -> Tensor:
    """The largest |x|, from the extreme codes of each channel: decoding is monotone."""
    if not tokens.format.affine:
        return tokens.floats().abs().amax()
    codes = tokens.format.unpack(tokens.codes)
    low, high = codes.amin(-2).float(), codes.amax(-2).float()
    if tokens.scale is not None and tokens.zero is not None:
        scale, zero = tokens.scale.float(), tokens.zero.float()
        low, high = (low + zero) * scale, (high + zero) * scale
    return torch.maximum(low.abs(), high.abs()).amax()
