"""How tokens become bytes: one entry of :data:`CODECS` a codec.

Shapes: T segments, N tokens, D channels; ``[..., N, D]`` is one frame after another. FORMAT.md section 5 is the
specification of what is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mettle_cache.errors import StoreError, UsageError
from mettle_cache.store.format.affine import AffineRange, choose_scale_and_zero, quantise
from mettle_cache.tokens import FLOATS, INT4, INT8, AffineFormat, LayerTokens, TokenFormat, pack_int4


class Codec(Protocol):
    """What the rest of the store needs to know of a codec.

    ``limit`` is the largest |x| that it takes; ``has_scale`` says whether arrays of scales and zeros go with the codes.
    """

    @property
    def name(self) -> str: ...
    @property
    def code_dtype(self) -> torch.dtype: ...
    @property
    def has_scale(self) -> bool: ...
    @property
    def format(self) -> TokenFormat: ...
    @property
    def limit(self) -> float: ...

    def code_width(self, width: int) -> int:
        """Stored values a token of ``width`` channels."""
        ...

    def encode(self, x: Tensor, *, layer: str | None = None) -> LayerTokens:
        """Encode ``x`` ``[..., T, N, D]`` on the device where it is; ``layer`` is named in errors.

        Every frame is encoded by itself, so the bytes do not depend on what else is in the batch.

        Raises
        ------
        StoreError
            A value that is not finite or is beyond ``limit``.
        """
        ...


@dataclass(frozen=True)
class FloatCodec:
    """Values rounded to a floating-point type; no scale, no zero."""

    name: str
    code_dtype: torch.dtype
    limit: float
    has_scale: bool = False
    format: TokenFormat = FLOATS

    def code_width(self, width: int) -> int:
        return width

    def encode(self, x: Tensor, *, layer: str | None = None) -> LayerTokens:
        codes = torch.empty(x.shape, dtype=self.code_dtype, device=x.device)
        for frame, out in _in_cache(x, codes):
            _check_range(frame.amin(), frame.amax(), self, layer)
            out.copy_(frame)
        return LayerTokens(codes, self.format)


@dataclass(frozen=True)
class AffineCodec:
    """``x ≈ scale * (code + zero)`` per frame and channel, scale and zero in float16 (affine.py)."""

    name: str
    codes: AffineRange
    format: AffineFormat
    has_scale: bool = True

    @property
    def code_dtype(self) -> torch.dtype:
        return self.format.code_dtype

    @property
    def limit(self) -> float:
        return self.codes.limit

    def code_width(self, width: int) -> int:
        if self.format.packed and width % 2:
            raise StoreError(f"codec {self.name} packs two channels a byte and cannot store {width} channels")
        return width // 2 if self.format.packed else width

    def encode(self, x: Tensor, *, layer: str | None = None) -> LayerTokens:
        stored = (*x.shape[:-1], self.code_width(x.shape[-1]))
        codes = torch.empty(stored, dtype=self.code_dtype, device=x.device)
        scale = torch.empty(x.shape[:-2] + x.shape[-1:], dtype=torch.float16, device=x.device)
        zero = torch.empty_like(scale)
        flat_scale, flat_zero = scale.view(-1, x.shape[-1]), zero.view(-1, x.shape[-1])
        scratch: Tensor | None = None
        done = 0
        for frames, out in _in_cache(x, codes):
            low, high = frames.amin(-2), frames.amax(-2)
            _check_range(low.amin(), high.amax(), self, layer)
            rows = slice(done, done + len(frames))
            flat_scale[rows], flat_zero[rows] = choose_scale_and_zero(low, high, self.codes)
            scratch = torch.empty_like(frames) if scratch is None else scratch
            quantised = quantise(frames, flat_scale[rows], flat_zero[rows], self.codes, out=scratch)
            out.copy_(pack_int4(quantised) if self.format.packed else quantised)
            done += len(frames)
        return LayerTokens(codes, self.format, {"scale": scale, "zero": zero})


_KNOWN: tuple[Codec, ...] = (
    # float16 overflows at 65,504; the margin leaves room for a head's first sums
    FloatCodec("float16", torch.float16, limit=6e4),
    AffineCodec("int8", AffineRange(low=-128, high=127), INT8),
    AffineCodec("int4", AffineRange(low=0, high=15), INT4),
)
CODECS: Mapping[str, Codec] = {codec.name: codec for codec in _KNOWN}
DEFAULT_CODEC = "int8"


def get_codec(name: str) -> Codec:
    """The codec of that name.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in CODECS:
        raise UsageError(f"no codec is called '{name}'", hint=f"use one of {', '.join(CODECS)}")
    return CODECS[name]


def encode_layers(tokens: Mapping[str, Tensor], codec: Codec) -> dict[str, LayerTokens]:
    """Encode ``{layer name: [..., T, N, D]}``; an error names the layer."""
    return {name: codec.encode(x, layer=name) for name, x in tokens.items()}


def _in_cache(x: Tensor, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of ``[F, N, D]`` float32 frames and the codes to fill: one frame on a CPU, where it and the temporaries
    stay in the cache (6 times faster than whole layers), all of them on an accelerator, where launches cost."""
    frames, out = x.flatten(0, -3), codes.view(-1, *codes.shape[-2:])
    step = 1 if x.device.type == "cpu" else max(1, len(frames))
    for start in range(0, len(frames), step):
        yield frames[start : start + step].float(), out[start : start + step]


def _check_range(low: Tensor, high: Tensor, codec: Codec, layer: str | None) -> None:
    # NaN fails both comparisons, so this refuses it too
    lowest, highest = torch.stack((low, high)).tolist()
    if lowest >= -codec.limit and highest <= codec.limit:
        return
    where = f"layer {layer}" if layer else "tokens"
    raise StoreError(
        f"{where}: values from {lowest:g} to {highest:g}; codec {codec.name} takes finite values up to {codec.limit:g}",
        hint="a backbone that overflows wants float32 instead of half precision; large activations want --codec int8",
    )
