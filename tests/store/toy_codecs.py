"""A codec that is not this package's, for tests, with everything that a codec may have."""

from dataclasses import dataclass

import torch

from mettle_cache.registry import CodecRow
from mettle_cache.store.format.codecs import CodecArray
from mettle_cache.tokens import LayerTokens

SIX = CodecRow("six", "tests.store.toy_codecs:SIX_BITS")


@dataclass(frozen=True)
class SixBitFormat:
    """``x ≈ peak * level[code]``: 6-bit codes, four in three bytes; a peak a token; a table of 64 levels a layer."""

    width_: int
    name: str = "six"
    code_dtype: torch.dtype = torch.uint8
    parts: tuple[str, ...] = ("peak",)
    static: tuple[str, ...] = ("levels",)
    affine: bool = False

    def shape(self, tokens):
        return tokens.codes.shape[-2], self.width_

    def unpack(self, codes):
        first, second, third = codes.unflatten(-1, (-1, 3)).to(torch.int32).unbind(-1)
        word = first | second << 8 | third << 16
        return torch.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], -1).flatten(-2)[..., : self.width_]

    def floats(self, tokens, dtype):
        values = tokens.static["levels"].to(dtype)[self.unpack(tokens.codes).long()]
        return values * tokens.parts["peak"].to(dtype).unsqueeze(-1)


class SixBitPilot:
    """Levels at quantiles of what tokens are relative to their largest channel."""

    def __init__(self, layers):
        self._seen = {layer.name: [] for layer in layers}

    wanted = 6

    def choose(self, clips, segments):
        return [(clip, tuple(range(min(2, segments)))) for clip in range(min(4, len(clips)))]

    def add(self, tokens):
        for name, x in tokens.items():
            self._seen[name].append((x.double() / x.double().abs().amax(-1, keepdim=True).clamp(min=1e-9)).flatten())

    def finish(self):
        at = torch.linspace(0, 1, 64, dtype=torch.float64)
        return {
            name: {"levels": torch.quantile(torch.cat(seen)[:200_000], at).float()} for name, seen in self._seen.items()
        }


@dataclass(frozen=True)
class SixBitCodec:
    name: str = "six"
    limit: float = 6e4

    def arrays(self, layers, segments):
        count, width = layers[0].tokens, layers[0].width
        codes = (segments, count, -(-width // 4) * 3)
        return (
            CodecArray(part="codes", dtype="uint8", axes=("segment", "token", "channel"), shape=codes),
            CodecArray(part="peak", dtype="float16", axes=("segment", "token"), shape=(segments, count)),
            CodecArray(part="levels", dtype="float32", axes=("code",), shape=(64,), static=True),
        )

    def format(self, layer, static):
        return SixBitFormat(layer.width)

    def pilot(self, layers):
        return SixBitPilot(layers)

    def encode(self, tokens, layers, static):
        return {name: self._encode(x, static[name]) for name, x in tokens.items()}

    def _encode(self, x, static):
        peak = x.abs().amax(-1).half()
        # the nearest level, from the rounded peak
        relative = x / peak.float().clamp(min=1e-9).unsqueeze(-1)
        codes = (relative.unsqueeze(-1) - static["levels"]).abs().argmin(-1).to(torch.int32)
        codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % 4)).unflatten(-1, (-1, 4))
        word = sum(codes[..., place] << 6 * place for place in range(4))
        packed = torch.stack([word >> shift & 255 for shift in (0, 8, 16)], -1).flatten(-2).to(torch.uint8)
        return LayerTokens(packed, SixBitFormat(x.shape[-1]), {"peak": peak}, static)


SIX_BITS = SixBitCodec()
