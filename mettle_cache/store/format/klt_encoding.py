"""The arithmetic of the ``klt`` codecs.

A token X is normalised by its *stored* norm, ``x = (X - mu) / sigma``; y is x less the mean of its frame; with P the
basis, s the steps and b the bits of the components,

    z = y P        c = clamp(floor(z / s) + 2^(b-1), 0, 2^b - 1)        decoded = s (c - (2^b - 1) / 2) P^T

and the rest r is the mean over the frame's tokens of x - decoded, so that the mean of what is decoded is exact.

Frames are encoded one by one by products of a fixed shape in one thread, so that bytes depend on the frame and the
static arrays alone. Source: docs/codecs.md, "The klt family".

Shapes: F frames, N tokens, D channels, P tokens of a cell, R rows (N / P), M components, C bytes of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.devices import one_thread
from mettle_cache.klt_tokens import BITS, KltFormat
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.ranges import RangeChecks, check_range
from mettle_cache.tokens import LayerTokens, kept_on

if TYPE_CHECKING:
    from mettle_cache.store.format.klt import KltCodec

EPSILON = 1e-5


def encode_klt(
    x: Tensor, codec: KltCodec, layer: LayerSpec, static: Mapping[str, Tensor], checks: RangeChecks | None = None
) -> LayerTokens:
    """``x`` ``[..., T, N, D]`` as klt codes, by the static arrays of ``layer``, which lie on the CPU.

    With ``checks`` the range is noted there, and nothing is refused.

    Raises
    ------
    TokensError
        A value that is not finite or is beyond the codec's limit; names the layer.
    """
    form = codec.format(layer, static)
    encoder = _Encoder.of(form, layer, codec, {name: kept_on(x.device, static[name]) for name in ("basis", "step")})
    frames = x.flatten(0, -3)
    rows = form.count // form.places
    # zeros: bytes that no plane fills stay so
    codes = torch.zeros(len(frames), rows, codec.row_bytes(layer), dtype=torch.uint8, device=x.device)
    shapes = {"norm": (form.count, 2), "rest": (form.width,), "shift": (form.width,)}
    parts = {name: torch.empty(len(frames), *shapes[name], dtype=torch.float16, device=x.device) for name in form.parts}
    with one_thread(x.device):
        for number, frame in enumerate(frames):
            encoder.encode(frame, codes[number], {name: part[number] for name, part in parts.items()}, checks)
    leading = x.shape[:-2]
    parts = {name: part.view(*leading, *shapes[name]) for name, part in parts.items()}
    return LayerTokens(codes.view(*leading, *codes.shape[1:]), form, parts, static)


def token_norms(frame: Tensor, layer: LayerSpec, codec: KltCodec, checks: RangeChecks | None = None) -> Tensor:
    """Mean and standard deviation over the channels of tokens ``[N, D]`` float32, as they are stored: float16
    ``[N, 2]``. Raises TokensError as :func:`encode_klt`."""
    check_range(*frame.aminmax(), codec, layer.name, checks)
    mean = frame.mean(-1)
    # eight times faster than var_mean
    variance = (frame - mean.unsqueeze(-1)).square_().mean(-1)
    return torch.stack((mean, (variance + EPSILON).sqrt()), -1).to(torch.float16)


def rows_and_mean(
    frame: Tensor, layer: LayerSpec, codec: KltCodec, checks: RangeChecks | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``[R, P D]`` of normalised tokens less their frame's mean, that mean ``[D]``, and the norms ``[N, 2]``.

    ``frame`` is ``[N, D]``; all but the norms in float32.
    """
    # sums depend on the order of the values in memory
    frame = frame.float().contiguous()
    norm = token_norms(frame, layer, codec, checks)
    mean, deviation = norm.float().unbind(-1)
    normalised = (frame - mean.unsqueeze(-1)) / deviation.unsqueeze(-1)
    centre = normalised.mean(0)
    form = KltFormat(layer.width, layer.grid, layer.tokens, (0, 0, 0, 0), layer.cell)
    return form.to_cells(normalised.sub_(centre)).flatten(-2), centre, norm


@dataclass(frozen=True)
class _Encoder:
    """A layer's static arrays of its M components, as float32 on the tokens' device; ``basis`` is ``[P D, M]``."""

    form: KltFormat
    layer: LayerSpec
    codec: KltCodec
    basis: Tensor
    step: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, form: KltFormat, layer: LayerSpec, codec: KltCodec, static: Mapping[str, Tensor]) -> _Encoder:
        basis = static["basis"][:, : form.components].float().contiguous()
        step = static["step"][: form.components].float()
        return cls(form, layer, codec, basis, step, form.offsets(basis.device))

    def encode(self, frame: Tensor, codes: Tensor, parts: Mapping[str, Tensor], checks: RangeChecks | None) -> None:
        """Encode tokens ``[N, D]`` into codes ``[R, C]`` and parts."""
        form = self.form
        rows, centre, norm = rows_and_mean(frame, self.layer, self.codec, checks)
        components = self._quantise(rows @ self.basis)
        codes[:, : form.row_bytes] = form.pack(components)
        parts["norm"].copy_(norm)
        weights = rows.new_ones(len(rows), form.places)
        parts["rest"].copy_(centre - self._decoded_sum(components, weights) / form.count)
        if form.shifted:
            parts["shift"].copy_(
                self._raw_error(frame.float().contiguous(), components, norm.float(), parts["rest"].float())
            )

    def _quantise(self, components: Tensor) -> Tensor:
        """Codes ``[R, M]`` of components, whole numbers in float32, in their place."""
        components.div_(self.step).floor_()
        for plane, bits in zip(components.split(self.form.planes, -1), BITS, strict=True):
            plane.add_(2 ** (bits - 1)).clamp_(0, 2**bits - 1)
        return components

    def _decoded_sum(self, components: Tensor, weights: Tensor) -> Tensor:
        """The sum ``[D]`` of all tokens, as codes ``[R, M]`` give them without the rest, by weights ``[R, P]``."""
        sums = (weights.mT @ components - weights.sum(0).unsqueeze(-1) * self.offsets) * self.step
        basis = self.basis.unflatten(0, (self.form.places, self.form.width))
        total: Tensor = (basis @ sums.unsqueeze(-1)).squeeze(-1).sum(0)
        return total

    def _raw_error(self, frame: Tensor, components: Tensor, norm: Tensor, rest: Tensor) -> Tensor:
        """The mean ``[D]`` over a frame of raw tokens ``[N, D]`` less what codes, norms and rest give."""
        mean, deviation = norm.unbind(-1)
        weights = self.form.to_cells(deviation.unsqueeze(-1)).squeeze(-1)
        decoded = self._decoded_sum(components, weights) / len(frame) + deviation.mean() * rest + mean.mean()
        return frame.mean(0) - decoded
