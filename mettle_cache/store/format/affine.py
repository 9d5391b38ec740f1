"""The affine quantiser: ``x ≈ scale * (q + zero)`` per frame and channel, with a proven error bound.

Shapes: F frames, N tokens, D channels. For one frame and channel let ``lo`` and ``hi`` be the extremes over the N
tokens, ``mid`` the middle between them, and L the number of steps between the lowest and the highest code:

    scale = float16↑( max((hi - lo) / L, |mid| / 2040, 2⁻²⁴) )      rounded up, so the codes cover the range
    zero  = float16 ( mid / scale - q_mid )                           |zero| <= 2048: float16 still resolves half a step
    q     = clamp( round( x / scale - zero ) )                        from the *rounded* scale and zero

Rounding costs at most half a code. Clamping costs at most the rounding error of ``zero``, because the range is centred
and at most L steps wide. Hence ``|x - x̂| <= scale * (max(1/2, ulp(zero)/2) + ε)``, where ε (below 10⁻³) is what float32
adds. A channel that is constant has ``q_mid = 0``: zero stays zero exactly, and any other constant is kept at least as
well as float16 would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FLOAT16_MAX = 65504.0
_FLOAT16_TINY = 2.0**-24
# |mid / scale| stays below this, so that |zero| <= 2048, up to which float16 has steps of 1 or finer
_LARGEST_CENTRE = 2040.0


@dataclass(frozen=True)
class AffineRange:
    """The codes that a codec has, ``low`` to ``high`` inclusive."""

    low: int
    high: int

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


def choose_scale_and_zero(low: Tensor, high: Tensor, codes: AffineRange) -> tuple[Tensor, Tensor]:
    """Scale and zero ``[F, D]`` float16 for channels that span ``low`` to ``high`` ``[F, D]`` float32."""
    centre = low * 0.5 + high * 0.5
    wanted = torch.maximum((high - low) / codes.steps, centre.abs() / _LARGEST_CENTRE).clamp_(min=_FLOAT16_TINY)
    scale = _float16_at_least(wanted)
    middle = torch.where(high == low, 0.0, codes.middle)
    zero = (centre / scale.float() - middle).to(torch.float16)
    return scale, zero


def quantise(x: Tensor, scale: Tensor, zero: Tensor, codes: AffineRange, *, out: Tensor) -> Tensor:
    """Codes ``[F, N, D]`` of ``x`` ``[F, N, D]``, whole numbers in float32, into ``out``; scale and zero ``[F, D]``."""
    steps = torch.div(x, scale.float().unsqueeze(-2), out=out)
    return steps.sub_(zero.float().unsqueeze(-2)).round_().clamp_(codes.low, codes.high)


def _float16_at_least(x: Tensor) -> Tensor:
    """The smallest float16 that is not below ``x``; positive float16 are ordered as their bit patterns are."""
    nearest = x.to(torch.float16)
    return (nearest.view(torch.int16) + (nearest.float() < x).to(torch.int16)).view(torch.float16)
