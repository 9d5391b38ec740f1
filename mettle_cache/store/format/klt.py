"""The codecs of the family ``klt``: bit planes of a layer's Karhunen-Loeve components, each frame's mean kept.

``kltB`` spends B code bits a value, the same number of bytes on every row of a stage. Which component gets how many
bits, the basis and the steps are static arrays, which the codec's pilot computes (klt_pilot.py). What codes mean is in
:mod:`mettle_cache.klt_tokens`; source: docs/codecs.md, "The klt family".

Shapes: T segments, N tokens, D channels, P tokens of a cell, R rows (N / P), C bytes of a row, K columns of the basis.
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

    from mettle_cache.klt_tokens import KltFormat
    from mettle_cache.store.format.ranges import RangeChecks
    from mettle_cache.tokens import LayerTokens

# components a group, which have the same number of bits and so fill whole bytes
GROUP = 8


@dataclass(frozen=True)
class KltCodec:
    """Codes of ``rate`` bits a value, beside the norm of each token and the rest of each frame.

    Attributes
    ----------
    rate
        B; 0 keeps each frame's mean alone.
    shifted
        Whether a second row a frame makes the mean of its raw tokens exact too.
    cells
        This codec encodes cells of tokens where the layer table has them (:attr:`LayerSpec.cell`).
    """

    name: str
    rate: float
    shifted: bool = False
    cells: bool = True
    limit: float = 6e4
    takes_checks: ClassVar[bool] = True

    def arrays(self, layers: Sequence[LayerSpec], segments: int) -> tuple[CodecArray, ...]:
        layer = layers[0]
        components, columns = square(layer), basis_columns(layer, self.rate)
        rows = (segments, layer.tokens // layer.cell**2, self.row_bytes(layer))
        means = ("rest", "shift") if self.shifted else ("rest",)
        return (
            CodecArray(part=CODES, dtype="uint8", axes=("segment", "row", "byte"), shape=rows),
            CodecArray(
                part="norm", dtype="float16", axes=("segment", "token", "norm"), shape=(segments, layer.tokens, 2)
            ),
            *(
                CodecArray(part=part, dtype="float16", axes=("segment", "channel"), shape=(segments, layer.width))
                for part in means
            ),
            _static("basis", "float16", ("channel", "component"), (components, columns)),
            _static("step", "float32", ("component",), (columns,)),
            _static("bits", "uint8", ("component",), (columns,)),
        )

    def format(self, layer: LayerSpec, static: Mapping[str, Tensor]) -> KltFormat:
        """See :meth:`Codec.format`; how many components have how many bits follows from the static array ``bits``.

        Raises
        ------
        StoreError
            The bits are none that this codec's pilot gives.
        """
        from mettle_cache.klt_tokens import BITS, KltFormat

        bits = static["bits"].tolist()
        eights, fours, twos, ones = (bits.count(number) for number in BITS)
        form = KltFormat(
            width=layer.width,
            grid=layer.grid,
            count=layer.tokens,
            planes=(eights, fours, twos, ones),
            cell=layer.cell,
            shifted=self.shifted,
        )
        ordered = [number for number, count in zip(BITS, form.planes, strict=True) for _ in range(count)]
        whole = not any(count % GROUP for count in form.planes)
        if not whole or bits != ordered + [0] * (len(bits) - len(ordered)) or form.row_bytes > self.row_bytes(layer):
            raise StoreError(
                f"layer {layer.name}: its static array bits does not fill rows of {self.row_bytes(layer)} bytes by "
                f"{', '.join(map(str, BITS))} and 0 bits in this order",
                hint="static arrays come from the codec's pilot",
            )
        return form

    def pilot(self, layers: Sequence[LayerSpec]) -> Pilot:
        from mettle_cache.store.format.klt_pilot import KltPilot

        return KltPilot(layers, self)

    def encode(
        self,
        tokens: Mapping[str, Tensor],
        layers: Sequence[LayerSpec],
        static: StaticArrays,
        checks: RangeChecks | None = None,
    ) -> dict[str, LayerTokens]:
        from mettle_cache.store.format.klt_encoding import encode_klt

        table = {layer.name: layer for layer in layers}
        unknown = sorted(tokens.keys() - table.keys())
        if unknown:
            raise StoreError(f"codec {self.name} needs the layer table's rows of {', '.join(unknown[:5])}")
        return {name: encode_klt(x, self, table[name], static[name], checks) for name, x in tokens.items()}

    def row_bytes(self, layer: LayerSpec) -> int:
        """C: bytes of a row of codes, ``rate`` bits for each of its P D values, rounded; at least 1 if ``rate`` > 0."""
        if not self.rate:
            return 0
        nearest = int(self.rate * square(layer) / 8 + 0.5)
        return min(max(1, nearest), basis_columns(layer, self.rate))


def square(layer: LayerSpec) -> int:
    """P D: values of a row, and as many components."""
    return layer.width * layer.cell**2


def basis_columns(layer: LayerSpec, rate: float) -> int:
    """K: components by whole groups; one group, of nothing, where there are no codes."""
    return -(-square(layer) // GROUP) * GROUP if rate else GROUP


def _static(part: str, dtype: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> CodecArray:
    return CodecArray(part=part, dtype=dtype, axes=axes, shape=shape, static=True)


KLT2 = KltCodec("klt2", 2)
KLT15 = KltCodec("klt1.5", 1.5)
KLT132 = KltCodec("klt1.32", 1.32)
KLT125 = KltCodec("klt1.25", 1.25)
KLT0 = KltCodec("klt0", 0)
