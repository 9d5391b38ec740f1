"""The codecs of this package: values rounded to a floating-point type, and affine codes a frame and channel.

Shapes: T segments, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mettle_cache.errors import StoreError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODES, CodecArray, Pilot, StaticArrays

if TYPE_CHECKING:
    from torch import Tensor

    from mettle_cache.store.format.ranges import RangeChecks
    from mettle_cache.tokens import LayerTokens, TokenFormat

_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class FloatCodec:
    """Values rounded to a floating-point type; no scale, no zero."""

    name: str
    dtype: str
    limit: float
    takes_checks: ClassVar[bool] = True

    def arrays(self, layers: Sequence[LayerSpec], segments: int) -> tuple[CodecArray, ...]:
        axes, shape = ("segment", "token", "channel"), (segments, layers[0].tokens, layers[0].width)
        return (CodecArray(part=CODES, dtype=self.dtype, axes=axes, shape=shape),)

    def format(self, layer: LayerSpec, static: Mapping[str, Tensor]) -> TokenFormat:
        from mettle_cache.tokens import FLOATS

        return FLOATS

    def pilot(self, layers: Sequence[LayerSpec]) -> Pilot | None:
        return None

    def encode(
        self,
        tokens: Mapping[str, Tensor],
        layers: Sequence[LayerSpec],
        static: StaticArrays,
        checks: RangeChecks | None = None,
    ) -> dict[str, LayerTokens]:
        from mettle_cache.store.format.encoding import encode_floats

        return {name: encode_floats(x, self, name, checks) for name, x in tokens.items()}


@dataclass(frozen=True)
class AffineCodec:
    """``x ≈ scale * (code + zero)`` per frame and channel, scale and zero in float16 (encoding.py).

    Codes are the integers from ``low`` to ``high`` inclusive; ``packed``: two of them a byte. ``keeps_mean``: the zero
    takes up the mean of the rounding errors, so that a frame's mean token is nearly exact.
    """

    name: str
    dtype: str
    low: int
    high: int
    packed: bool = False
    keeps_mean: bool = False
    version: int = 1
    takes_checks: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        return self.high - self.low

    @property
    def middle(self) -> float:
        return (self.high + self.low) / 2

    @property
    def limit(self) -> float:
        """The largest |x| for which no scale can overflow float16."""
        return _FLOAT16_MAX * self.steps / 2

    def arrays(self, layers: Sequence[LayerSpec], segments: int) -> tuple[CodecArray, ...]:
        count, width = layers[0].tokens, layers[0].width
        codes = CodecArray(
            part=CODES,
            dtype=self.dtype,
            axes=("segment", "token", "channel"),
            shape=(segments, count, self.code_width(width)),
        )
        return (codes, *(self._affine_part(part, segments, width) for part in ("scale", "zero")))

    def format(self, layer: LayerSpec, static: Mapping[str, Tensor]) -> TokenFormat:
        from mettle_cache import tokens

        return tokens.INT4 if self.packed else tokens.INT8

    def pilot(self, layers: Sequence[LayerSpec]) -> Pilot | None:
        return None

    def encode(
        self,
        tokens: Mapping[str, Tensor],
        layers: Sequence[LayerSpec],
        static: StaticArrays,
        checks: RangeChecks | None = None,
    ) -> dict[str, LayerTokens]:
        from mettle_cache.store.format.encoding import encode_affine

        return {name: encode_affine(x, self, name, checks) for name, x in tokens.items()}

    def code_width(self, width: int) -> int:
        """Stored values a token of ``width`` channels.

        Raises
        ------
        StoreError
            Codes are packed and the number of channels is odd.
        """
        if self.packed and width % 2:
            raise StoreError(f"codec {self.name} packs two channels a byte and cannot store {width} channels")
        return width // 2 if self.packed else width

    @staticmethod
    def _affine_part(part: str, segments: int, width: int) -> CodecArray:
        return CodecArray(part=part, dtype="float16", axes=("segment", "channel"), shape=(segments, width))


# float16 overflows at 65,504; the margin leaves room for a head's first sums
FLOAT16 = FloatCodec("float16", "float16", limit=6e4)
INT8_CODEC = AffineCodec("int8", "int8", low=-128, high=127)
INT4_CODEC = AffineCodec("int4", "uint8", low=0, high=15, packed=True, keeps_mean=True, version=2)
