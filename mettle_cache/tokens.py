"""What the reader hands to a method: a layer's tokens, as stored, never silently turned into floats.

Shapes: B clips, T segments, N tokens, D channels. A token is ``x ≈ scale * (code + zero)`` per frame and channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.errors import UsageError


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of one layer.

    Attributes
    ----------
    codes
        ``[..., T, N, D]`` floats or int8; or ``[..., T, N, D/2]`` uint8, two int4 codes a byte: the low nibbles hold
        the first half of the channels, the high nibbles the second half.
    scale, zero
        ``[..., T, D]`` floats, or None when ``codes`` are floats.
    """

    codes: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None

    def __post_init__(self) -> None:
        is_float = self.codes.is_floating_point()
        if is_float != (self.scale is None) or is_float != (self.zero is None):
            raise UsageError(f"{self.codes.dtype} codes need {'no' if is_float else 'a'} scale and zero")

    @property
    def packed(self) -> bool:
        """Whether a byte holds two int4 codes."""
        return self.codes.dtype == torch.uint8

    @property
    def width(self) -> int:
        """D, the number of channels."""
        return self.codes.shape[-1] * (2 if self.packed else 1)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.codes, self.scale, self.zero) if part is not None)

    def floats(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Decode to ``[..., T, N, D]``."""
        codes = unpack_int4(self.codes) if self.packed else self.codes
        values = codes.to(dtype)
        if self.scale is None or self.zero is None:
            return values
        return values.add_(self.zero.to(dtype).unsqueeze(-2)).mul_(self.scale.to(dtype).unsqueeze(-2))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> LayerTokens:
        def move(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device, non_blocking=non_blocking)

        return LayerTokens(self.codes.to(device, non_blocking=non_blocking), move(self.scale), move(self.zero))

    def flatten_frames(self) -> LayerTokens:
        """``[B, T, N, *]`` as ``[B T, N, *]``, without a copy."""

        def flatten(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.flatten(part, 0, 1)

        return LayerTokens(torch.flatten(self.codes, 0, 1), flatten(self.scale), flatten(self.zero))

    def __getitem__(self, index: int | slice | Tensor) -> LayerTokens:
        """Index the leading (clip) axis of every part alike."""
        if self.scale is None or self.zero is None:
            return LayerTokens(self.codes[index])
        return LayerTokens(self.codes[index], self.scale[index], self.zero[index])


def unpack_int4(packed: Tensor) -> Tensor:
    """``[..., D/2]`` uint8 to ``[..., D]`` uint8 codes from 0 to 15."""
    return torch.cat((packed & 0x0F, packed >> 4), dim=-1)


def pack_int4(codes: Tensor) -> Tensor:
    """``[..., D]`` codes from 0 to 15 to ``[..., D/2]`` uint8, the inverse of :func:`unpack_int4`."""
    low, high = codes.to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of B clips: ``layers`` by name, each ``[B, T, N, D]``; ``clips`` holds the B manifest rows."""

    layers: Mapping[str, LayerTokens]
    clips: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(tokens.nbytes for tokens in self.layers.values())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TokenBatch:
        moved = {name: tokens.to(device, non_blocking=non_blocking) for name, tokens in self.layers.items()}
        return TokenBatch(moved, self.clips)
