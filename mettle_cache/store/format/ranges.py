"""What a codec refuses: values that are not finite, or are beyond its limit.

On a CPU each piece is judged before it is encoded. On a device a judgement makes the host wait for all that was asked
of the device before, so there the extremes of a clip's pieces can be collected, and judged together with its codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.errors import TokensError

if TYPE_CHECKING:
    from mettle_cache.store.format.codecs import Codec


class RangeChecks:
    """The extremes of pieces that were encoded without a look at them. Codes of those that are refused mean nothing."""

    def __init__(self) -> None:
        self._extremes: list[Tensor] = []
        self._of: list[tuple[Codec, str]] = []

    def add(self, low: Tensor, high: Tensor, codec: Codec, layer: str) -> None:
        """Take note of the extremes of a piece of ``layer``, scalars in float32."""
        self._extremes += [low, high]
        self._of.append((codec, layer))

    def extremes(self, device: torch.device) -> Tensor:
        """Lowest and highest value of every piece, ``[2 pieces]`` on ``device``, where the pieces are."""
        return torch.stack(self._extremes) if self._extremes else torch.empty(0, device=device)

    def judge(self, extremes: Tensor) -> None:
        """Refuse by :meth:`extremes`, now on the host, what :func:`check_range` would have refused first.

        Raises
        ------
        TokensError
            Names the layer.
        """
        values = extremes.tolist()
        for lowest, highest, (codec, layer) in zip(values[::2], values[1::2], self._of, strict=True):
            _refuse_beyond(lowest, highest, codec, layer)


def check_range(low: Tensor, high: Tensor, codec: Codec, layer: str, checks: RangeChecks | None) -> None:
    """Refuse tokens of ``layer`` by their extremes, scalars in float32; with ``checks``, leave that to whoever judges.

    Raises
    ------
    TokensError
        They are not finite or beyond the codec's limit.
    """
    if checks is not None:
        checks.add(low, high, codec, layer)
        return
    lowest, highest = torch.stack((low, high)).tolist()
    _refuse_beyond(lowest, highest, codec, layer)


def _refuse_beyond(lowest: float, highest: float, codec: Codec, layer: str) -> None:
    # NaN fails both comparisons, so this refuses it too
    if lowest >= -codec.limit and highest <= codec.limit:
        return
    raise TokensError(
        f"layer {layer}: values from {lowest:g} to {highest:g}; "
        f"codec {codec.name} takes finite values up to {codec.limit:g}",
        hint="a backbone that overflows in float16 wants --precision bfloat16; large activations want --codec int8",
    )
