"""Six bits a channel, four of them in three bytes; a static range for every channel, one number for every token.

A token is ``norm * range * (code - 31.5) / 31.5``: ``norm`` is its own largest share of the channels' ranges, which a
pilot measured over some clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.errors import StoreError
from mettle_cache.store.format.codecs import CODES, CodecArray
from mettle_cache.tokens import LayerTokens

MIDDLE = 31.5
PILOT_FRAMES = 16


@dataclass(frozen=True)
class SixBitFormat:
    """See :class:`mettle_cache.tokens.TokenFormat`."""

    name: str = "six-bit"
    code_dtype: torch.dtype = torch.uint8
    parts: tuple[str, ...] = ("norm",)
    static: tuple[str, ...] = ("range",)
    affine: bool = False

    def shape(self, tokens: LayerTokens) -> tuple[int, int]:
        return tokens.codes.shape[-2], tokens.codes.shape[-1] // 3 * 4

    def unpack(self, codes: Tensor) -> Tensor:
        """``[..., 3 D/4]`` bytes to ``[..., D]`` codes from 0 to 63."""
        low, middle, high = codes.unflatten(-1, (-1, 3)).unbind(-1)
        four = (low & 63, (low >> 6) | ((middle & 15) << 2), (middle >> 4) | ((high & 3) << 4), high >> 2)
        return torch.stack(four, -1).flatten(-2)

    def floats(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        step = tokens.static["range"].to(dtype) / MIDDLE
        return (self.unpack(tokens.codes).to(dtype) - MIDDLE) * step * tokens.parts["norm"].to(dtype).unsqueeze(-1)


FORMAT = SixBitFormat()


def pack(codes: Tensor) -> Tensor:
    """``[..., D]`` codes from 0 to 63 to ``[..., 3 D/4]`` bytes."""
    a, b, c, d = codes.to(torch.uint8).unflatten(-1, (-1, 4)).unbind(-1)
    return torch.stack((a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)), -1).flatten(-2)


class RangePilot:
    """The largest magnitude of every channel over some clips. See ``Pilot`` beside :class:`Codec`."""

    def __init__(self, layers):
        self.largest = {layer.name: torch.full((layer.width,), 1e-6) for layer in layers}

    wanted = PILOT_FRAMES

    def choose(self, clips, segments):
        """Every segment of one clip after the other; whoever shows them stops when it is enough."""
        return [(clip, tuple(range(segments))) for clip in range(len(clips))]

    def add(self, tokens):
        for name, largest in self.largest.items():
            torch.maximum(largest, tokens[name].abs().amax(dim=(0, 1)).cpu(), out=largest)

    def finish(self):
        return {name: {"range": largest} for name, largest in self.largest.items()}


@dataclass(frozen=True)
class SixBitCodec:
    """See :class:`mettle_cache.store.format.codecs.Codec`."""

    name: str = "six-bit"
    limit: float = 6e4

    def arrays(self, layers, segments):
        count, width = layers[0].tokens, layers[0].width
        if width % 4:
            raise StoreError(f"codec {self.name} packs four channels and cannot store {width}")
        tokens = ("segment", "token")
        return (
            CodecArray(part=CODES, dtype="uint8", axes=(*tokens, "channel"), shape=(segments, count, width // 4 * 3)),
            CodecArray(part="norm", dtype="float16", axes=tokens, shape=(segments, count)),
            CodecArray(part="range", dtype="float32", axes=("channel",), shape=(width,), static=True),
        )

    def format(self, layer, static):
        return FORMAT

    def pilot(self, layers):
        return RangePilot(layers)

    def encode(self, tokens: Mapping[str, Tensor], layers, static) -> dict[str, LayerTokens]:
        return {name: self._encode(name, x, static[name]["range"]) for name, x in tokens.items()}

    def _encode(self, name: str, x: Tensor, largest: Tensor) -> LayerTokens:
        largest = largest.to(x.device)
        share = x / largest
        norm = share.abs().amax(-1).clamp(min=1e-4)
        if not bool((norm <= self.limit).all()):
            raise StoreError(f"layer {name}: values that are not finite, or too large for codec {self.name}")
        norm = norm.half()
        codes = (share / norm.float().unsqueeze(-1) * MIDDLE + MIDDLE).round().clamp(0, 63)
        return LayerTokens(pack(codes), FORMAT, {"norm": norm}, {"range": largest})


SIX_BIT = SixBitCodec()
