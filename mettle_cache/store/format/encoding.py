"""The arithmetic of the codecs.

The affine quantiser: ``x ≈ scale * (q + zero)`` per frame and channel, with a proven error bound.

Shapes: F frames, N tokens, D channels. For one frame and channel let ``lo`` and ``hi`` be the extremes over the N
tokens, ``mid`` the middle between them, and L the number of steps between the lowest and the highest code:

    scale = float16↑( max((hi - lo) / L, |mid| / 2040, 2⁻²⁴) )      rounded up, so the codes cover the range
    zero  = float16 ( mid / scale - q_mid )                           |zero| <= 2048: float16 still resolves half a step
    q     = clamp( round( x / scale - zero ) )                        from the *rounded* scale and zero

Rounding costs at most half a code. Clamping costs at most the rounding error of ``zero``, because the range is centred
and at most L steps wide. Hence ``|x - x̂| <= scale * (max(1/2, ulp(zero)/2) + ε)``, where ε (below 10⁻³) is what float32
adds. A channel that is constant has ``q_mid = 0``: zero stays zero exactly, and any other constant is kept at least as
well as float16 would.

A codec that keeps the mean (int4) then adds the mean over the N tokens of ``x / scale - zero - q``, at most the bound
above in codes, to the zero. The mean of what is decoded is off by no more than the rounding of the zero, and a token by
no more than twice the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.store.format.ranges import RangeChecks, check_range
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, pack_int4

if TYPE_CHECKING:
    from mettle_cache.store.format.quantisers import AffineCodec, FloatCodec

_FLOAT16_TINY = 2.0**-24
# |mid / scale| stays below this, so that |zero| <= 2048, up to which float16 has steps of 1 or finer
_LARGEST_CENTRE = 2040.0


def encode_floats(x: Tensor, codec: FloatCodec, layer: str, checks: RangeChecks | None = None) -> LayerTokens:
    """``x`` ``[..., T, N, D]`` rounded to the codec's type; ``layer`` is named in errors.

    With ``checks`` the range is noted there, and nothing is refused.

    Raises
    ------
    TokensError
        A value that is not finite or is beyond the codec's limit.
    """
    codes = torch.empty(x.shape, dtype=getattr(torch, codec.dtype), device=x.device)
    for frames, out in _in_cache(x, codes):
        check_range(frames.amin(), frames.amax(), codec, layer, checks)
        out.copy_(frames)
    return LayerTokens(codes, FLOATS)


def encode_affine(x: Tensor, codec: AffineCodec, layer: str, checks: RangeChecks | None = None) -> LayerTokens:
    """``x`` ``[..., T, N, D]`` as affine codes with scale and zero ``[..., T, D]``; else as :func:`encode_floats`."""
    form = INT4 if codec.packed else INT8
    codes = torch.empty(*x.shape[:-1], codec.code_width(x.shape[-1]), dtype=form.code_dtype, device=x.device)
    scale = torch.empty(x.shape[:-2] + x.shape[-1:], dtype=torch.float16, device=x.device)
    zero = torch.empty_like(scale)
    flat_scale, flat_zero = scale.view(-1, x.shape[-1]), zero.view(-1, x.shape[-1])
    scratch: Tensor | None = None
    done = 0
    for frames, out in _in_cache(x, codes, one_by_one=codec.keeps_mean):
        low, high = frames.amin(-2), frames.amax(-2)
        check_range(low.amin(), high.amax(), codec, layer, checks)
        rows = slice(done, done + len(frames))
        flat_scale[rows], flat_zero[rows] = choose_scale_and_zero(low, high, codec)
        scratch = torch.empty_like(frames) if scratch is None else scratch
        quantised = quantise(frames, flat_scale[rows], flat_zero[rows], codec, out=scratch)
        if codec.keeps_mean:
            flat_zero[rows] = mean_zero(frames, quantised, flat_scale[rows])
        out.copy_(pack_int4(quantised) if codec.packed else quantised)
        done += len(frames)
    return LayerTokens(codes, form, {"scale": scale, "zero": zero})


def choose_scale_and_zero(low: Tensor, high: Tensor, codec: AffineCodec) -> tuple[Tensor, Tensor]:
    """Scale and zero ``[F, D]`` float16 for channels that span ``low`` to ``high`` ``[F, D]`` float32."""
    centre = low * 0.5 + high * 0.5
    smallest = torch.maximum((high - low) / codec.steps, centre.abs() / _LARGEST_CENTRE).clamp_(min=_FLOAT16_TINY)
    scale = _float16_at_least(smallest)
    middle = torch.where(high == low, 0.0, codec.middle)
    zero = (centre / scale.float() - middle).to(torch.float16)
    return scale, zero


def quantise(x: Tensor, scale: Tensor, zero: Tensor, codec: AffineCodec, *, out: Tensor) -> Tensor:
    """Codes ``[F, N, D]`` of ``x`` ``[F, N, D]``, whole numbers in float32, into ``out``; scale and zero ``[F, D]``."""
    steps = torch.div(x, scale.float().unsqueeze(-2), out=out)
    return steps.sub_(zero.float().unsqueeze(-2)).round_().clamp_(codec.low, codec.high)


def mean_zero(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """The zero ``[F, D]`` float16 that makes the mean of decoded ``codes`` that of ``x``, both ``[F, N, D]``.

    It stays within 2048, because no mean error is above half a step, or half of one where the zero is above 1024.
    """
    return (x.mean(-2) / scale.float() - codes.mean(-2)).to(torch.float16)


def _float16_at_least(x: Tensor) -> Tensor:
    """The smallest float16 that is not below ``x``; positive float16 are ordered as their bit patterns are."""
    nearest = x.to(torch.float16)
    return (nearest.view(torch.int16) + (nearest.float() < x).to(torch.int16)).view(torch.float16)


def _in_cache(x: Tensor, codes: Tensor, *, one_by_one: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of ``[F, N, D]`` float32 frames and the codes to fill: one frame on a CPU, where it and the temporaries
    stay in the cache (6 times faster than whole layers), all of them on an accelerator, where launches cost.

    ``one_by_one``: one frame anywhere, contiguous, for sums that must not depend on what else is in the batch.
    """
    frames, out = x.flatten(0, -3), codes.view(-1, *codes.shape[-2:])
    step = 1 if one_by_one or x.device.type == "cpu" else max(1, len(frames))
    for start in range(0, len(frames), step):
        piece = frames[start : start + step].float()
        yield piece.contiguous() if one_by_one else piece, out[start : start + step]
