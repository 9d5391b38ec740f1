"""What the reader hands to a method: a layer's tokens, as stored, never silently turned into floats.

Shapes: B clips, T segments, N tokens, D channels. How codes stand for tokens is the matter of a :class:`TokenFormat`,
which every layer carries; a codec of another package brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mettle_cache.errors import UsageError


class TokenFormat(Protocol):
    """How a layer's codes stand for its tokens ``[..., T, N, D]``.

    Formats are values: two that are equal mean the same, and they can be pickled (a frozen dataclass does both).
    """

    @property
    def name(self) -> str: ...

    @property
    def code_dtype(self) -> torch.dtype | None:
        """The type of the codes; None for any floating-point type."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what goes with the codes for every frame."""
        ...

    @property
    def static(self) -> tuple[str, ...]:
        """The names of what goes with the codes for the whole layer."""
        ...

    @property
    def affine(self) -> bool:
        """Whether a token is ``scale * (code + zero)`` per frame and channel, or the code where there is no such part.

        Then kernels can work on code values; otherwise they need :meth:`floats`, or a kernel made for the format.
        """
        ...

    def shape(self, tokens: LayerTokens) -> tuple[int, int]:
        """N and D, whatever the codes' own last two axes are: a row may hold packed codes, or a cell of tokens."""
        ...

    def unpack(self, codes: Tensor) -> Tensor:
        """Code values; one for each channel, ``[..., N, D]``, where the format is :attr:`affine`."""
        ...

    def floats(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        """Decode to ``[..., T, N, D]``."""
        ...


class NormalisedFormat(TokenFormat, Protocol):
    """A format whose codes stand for tokens that were normalised over their channels before they were encoded.

    A LayerNorm of such tokens is ``weight * x + bias`` with x as they decode, not normalised anew.
    """

    def normalised(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        """Decode to normalised tokens ``[..., T, N, D]``."""
        ...


@dataclass(frozen=True)
class FloatFormat:
    """Codes that are the tokens themselves, of any floating-point type."""

    name: str = "floats"
    code_dtype: torch.dtype | None = None
    parts: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    affine: bool = True

    def shape(self, tokens: LayerTokens) -> tuple[int, int]:
        return tokens.codes.shape[-2], tokens.codes.shape[-1]

    def unpack(self, codes: Tensor) -> Tensor:
        return codes

    def floats(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        return tokens.codes.to(dtype)


@dataclass(frozen=True)
class AffineFormat:
    """``x ≈ scale * (code + zero)`` per frame and channel; scale and zero are ``[..., T, D]`` floats.

    ``packed``: a byte holds two codes from 0 to 15, the low nibbles the first half of the channels, the high nibbles
    the second half, so that codes are ``[..., T, N, D/2]``.
    """

    name: str
    code_dtype: torch.dtype
    packed: bool = False
    parts: tuple[str, ...] = ("scale", "zero")
    static: tuple[str, ...] = ()
    affine: bool = True

    def shape(self, tokens: LayerTokens) -> tuple[int, int]:
        return tokens.codes.shape[-2], tokens.codes.shape[-1] * (2 if self.packed else 1)

    def unpack(self, codes: Tensor) -> Tensor:
        return unpack_int4(codes) if self.packed else codes

    def floats(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        scale, zero = (tokens.parts[name].to(dtype).unsqueeze(-2) for name in ("scale", "zero"))
        # codes are integers, so the conversion is a copy that may be written to
        return self.unpack(tokens.codes).to(dtype).add_(zero).mul_(scale)


FLOATS = FloatFormat()
INT8 = AffineFormat("int8", torch.int8)
INT4 = AffineFormat("int4", torch.uint8, packed=True)


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of one layer.

    Attributes
    ----------
    codes
        ``[..., T, R, C]`` as stored; R and C are N and D where a row is a token and a code a channel.
    format
        How the codes stand for tokens.
    parts
        What goes with the codes of each frame, by name: ``scale`` and ``zero`` ``[..., T, D]``, or numbers a token
        ``[..., T, N]``. The axes before and with T are those of the codes.
    static
        What goes with all codes of the layer, by name, without leading axes.

    Raises
    ------
    UsageError
        The codes' type or the names of parts are not those of the format.
    """

    codes: Tensor
    format: TokenFormat
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    static: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        code_dtype, dtype = self.format.code_dtype, self.codes.dtype
        if dtype != code_dtype and (code_dtype is not None or not dtype.is_floating_point):
            raise UsageError(f"{self.format.name} tokens have {code_dtype or 'floating-point'} codes, not {dtype}")
        names = ((self.format.parts, self.parts), (self.format.static, self.static))
        if any(set(expected) != set(arrays) for expected, arrays in names):
            expected_arrays, arrays = ((*a, *b) for a, b in zip(*names, strict=True))
            raise UsageError(
                f"{self.format.name} tokens have {', '.join(expected_arrays) or 'nothing'} beside their codes, "
                f"not {', '.join(arrays) or 'nothing'}"
            )

    def __repr__(self) -> str:
        """The format and the shape of the codes: printing a batch must not print its tokens."""
        return f"<LayerTokens {self.format.name} {list(self.codes.shape)} on {self.codes.device}>"

    @property
    def scale(self) -> Tensor | None:
        """``[..., T, D]`` of an affine format."""
        return self.parts.get("scale")

    @property
    def zero(self) -> Tensor | None:
        """``[..., T, D]`` of an affine format."""
        return self.parts.get("zero")

    @property
    def count(self) -> int:
        """N, the number of tokens."""
        return self.format.shape(self)[0]

    @property
    def width(self) -> int:
        """D, the number of channels."""
        return self.format.shape(self)[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their parts; static arrays belong to all batches together and do not count."""
        return self.codes.nbytes + sum(part.nbytes for part in self.parts.values())

    def floats(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Decode to ``[..., T, N, D]``."""
        return self.format.floats(self, dtype)

    def normalised(self, dtype: torch.dtype = torch.float32, *, eps: float = 1e-5) -> Tensor:
        """Tokens as a LayerNorm of epsilon ``eps`` sees them before its weight and bias, ``[..., T, N, D]``.

        Where the codes stand for normalised tokens (``klt``), these as they decode, whatever ``eps`` is.
        """
        normalised = getattr(self.format, "normalised", None)
        if normalised is not None:
            decoded: Tensor = normalised(self, dtype)
            return decoded
        floats = self.floats(dtype)
        return torch.nn.functional.layer_norm(floats, floats.shape[-1:], eps=eps)

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerTokens:
        """The same with ``function`` of the codes and of each part: something that changes the leading axes alone."""
        parts = {name: function(part) for name, part in self.parts.items()}
        return replace(self, codes=function(self.codes), parts=parts)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> LayerTokens:
        def move(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=non_blocking)

        static = {name: kept_on(torch.device(device), array) for name, array in self.static.items()}
        return replace(self.map(move), static=static)

    def pin_memory(self) -> LayerTokens:
        """The same in page-locked memory, from which a GPU can fetch it asynchronously."""
        # static arrays belong to all batches: locking a copy for each would cost more than their one transfer
        return self.map(Tensor.pin_memory)

    def flatten_frames(self) -> LayerTokens:
        """``[B, T, *]`` as ``[B T, *]``, or however many leading axes there are, without a copy."""
        last = self.codes.ndim - 3
        return self.map(lambda part: torch.flatten(part, 0, last))

    def __getitem__(self, index: int | slice | Tensor) -> LayerTokens:
        """Index the leading (clip) axis of every part alike."""
        return self.map(lambda part: part[index])


# static arrays belong to all batches of a store: each goes to a device once, and stays while the store's is there
_ON_DEVICES = WeakTensorKeyDictionary()


def kept_on(device: torch.device, array: Tensor) -> Tensor:
    """A static array on ``device``; whoever asks again gets the same memory, as long as ``array`` lives.

    Threads that ask for it first at the same time may each fetch it.
    """
    if array.device == device:
        return array
    copies: dict[torch.device, Tensor] = _ON_DEVICES.setdefault(array, {})
    if device not in copies:
        copies[device] = array.to(device)
    return copies[device]


def stack_tokens(samples: Sequence[LayerTokens]) -> LayerTokens:
    """Tokens ``[..., N, D]`` of one layer along a new first axis; static arrays are those of the first."""
    first = samples[0]
    parts = {name: torch.stack([tokens.parts[name] for tokens in samples]) for name in first.parts}
    return replace(first, codes=torch.stack([tokens.codes for tokens in samples]), parts=parts)


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

    def __repr__(self) -> str:
        layers = (f"{name} {tokens.format.name} {list(tokens.codes.shape)}" for name, tokens in self.layers.items())
        return f"<TokenBatch of {len(self.clips)} clips, {self.nbytes:,} bytes: {', '.join(layers)}>"

    @property
    def nbytes(self) -> int:
        return sum(tokens.nbytes for tokens in self.layers.values())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TokenBatch:
        moved = {name: tokens.to(device, non_blocking=non_blocking) for name, tokens in self.layers.items()}
        return TokenBatch(moved, self.clips)

    def pin_memory(self) -> TokenBatch:
        """The same in page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        return TokenBatch({name: tokens.pin_memory() for name, tokens in self.layers.items()}, self.clips)
