"""Tokens for benches with the spectrum of a pretrained backbone's, because what klt codes hold follows from it.

The numbers in ``SPECTRA`` were measured on tokens of two pretrained networks on composed scenes with sound: 48 clips,
two successive frames of each, pictures and log-mel images; EfficientNet-Lite0 at 224 pixels, whose grids of 56, 28 and
7 tokens stand for stages 1, 2 and 4, and a DINOv2 ViT-S/14 at 224 pixels, whose blocks 4 to 9 (their average) stand for
stage 3. Neither network is a Swin-V2 or an HTS-AT: the figures state what a bench ran on, not what those give.

Everything is of normalised tokens ``x = (raw - mu) / sigma``. Their deviations from the frame's mean token have, in the
basis of their covariance's eigenvectors, a variance and a correlation with the next token and with the next frame,
which are told at ``KNOTS`` and interpolated between. Successive values of an autoregressive process along rows, columns
and frames have such correlations.

Shapes: T frames, N tokens in a grid of H x W, D channels, M = D - 1 components (normalised tokens have a mean of 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mettle_cache.layers import LayerSpec

# fractions of the components in order of decreasing variance
KNOTS = (0.0, 1 / 128, 1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
_BISECTIONS = 30


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What the tokens of one stage are like.

    Attributes
    ----------
    variances
        Of the components at ``KNOTS``, log2 of the variance over the components' mean variance.
    next_token, next_frame
        Correlations of a component with itself one token to the right or below, and one frame later.
    mean_share
        The part of the tokens' energy that is the frame's mean token.
    mean_static, mean_next
        The part of that which all frames have in common, and the cosine of successive frames' means.
    channels
        The largest channel's standard deviation over the median one's, of the deviations.
    unevenness
        The standard deviation of the log of the rows that bases are made from, which gives that.
    norms
        The standard deviation of log sigma over tokens.
    """

    variances: tuple[float, ...]
    next_token: tuple[float, ...]
    next_frame: tuple[float, ...]
    mean_share: float
    mean_static: float
    mean_next: float
    channels: float
    unevenness: float
    norms: float


SPECTRA: dict[str, Spectrum] = {
    "visual/s1": Spectrum(
        variances=(2.41, 2.41, 1.78, 0.91, 0.36, -0.60, -1.19, -2.70),
        next_token=(0.80, 0.80, 0.41, 0.46, 0.26, 0.34, 0.40, 0.73),
        next_frame=(0.91, 0.91, 0.79, 0.80, 0.70, 0.76, 0.75, 0.79),
        mean_share=0.22,
        mean_static=0.64,
        mean_next=0.96,
        channels=1.53,
        unevenness=0.45,
        norms=0.28,
    ),
    "visual/s2": Spectrum(
        variances=(2.71, 2.71, 1.80, 0.73, 0.36, -0.44, -1.32, -2.65),
        next_token=(0.77, 0.77, 0.58, 0.37, 0.31, 0.32, 0.35, 0.39),
        next_frame=(0.94, 0.94, 0.89, 0.83, 0.83, 0.81, 0.80, 0.78),
        mean_share=0.14,
        mean_static=0.43,
        mean_next=0.94,
        channels=1.71,
        unevenness=0.48,
        norms=0.28,
    ),
    "visual/s3": Spectrum(
        variances=(6.06, 3.83, 2.56, 0.39, -0.81, -2.17, -3.22, -4.77),
        next_token=(0.84, 0.67, 0.58, 0.42, 0.34, 0.28, 0.24, 0.22),
        next_frame=(0.96, 0.93, 0.91, 0.85, 0.82, 0.78, 0.75, 0.73),
        mean_share=0.31,
        mean_static=0.73,
        mean_next=0.97,
        channels=4.01,
        unevenness=0.54,
        norms=0.10,
    ),
    "visual/s4": Spectrum(
        variances=(4.57, 3.64, 2.47, 0.99, -0.08, -1.64, -2.98, -4.84),
        next_token=(0.74, 0.76, 0.76, 0.71, 0.64, 0.51, 0.41, 0.34),
        next_frame=(0.98, 0.96, 0.94, 0.91, 0.88, 0.81, 0.72, 0.64),
        mean_share=0.37,
        mean_static=0.22,
        mean_next=0.92,
        channels=1.45,
        unevenness=0.18,
        norms=0.34,
    ),
    "audio/s1": Spectrum(
        variances=(1.98, 1.98, 1.84, 1.03, 0.63, -0.34, -2.07, -6.90),
        next_token=(0.02, 0.02, 0.29, 0.02, 0.41, 0.33, 0.39, 0.25),
        next_frame=(0.18, 0.18, 0.38, 0.14, 0.29, 0.12, 0.24, 0.19),
        mean_share=0.25,
        mean_static=0.91,
        mean_next=0.98,
        channels=1.39,
        unevenness=0.30,
        norms=0.24,
    ),
    "audio/s2": Spectrum(
        variances=(2.42, 2.42, 1.95, 0.95, 0.41, -0.55, -1.81, -4.48),
        next_token=(0.69, 0.69, 0.54, 0.28, 0.17, 0.32, 0.32, 0.17),
        next_frame=(0.74, 0.74, 0.51, 0.28, 0.14, 0.17, 0.18, 0.15),
        mean_share=0.28,
        mean_static=0.88,
        mean_next=0.98,
        channels=1.53,
        unevenness=0.42,
        norms=0.28,
    ),
    "audio/s3": Spectrum(
        variances=(5.79, 4.54, 2.71, -0.01, -1.30, -2.78, -3.94, -5.58),
        next_token=(0.85, 0.74, 0.58, 0.40, 0.35, 0.30, 0.26, 0.25),
        next_frame=(0.93, 0.66, 0.48, 0.25, 0.19, 0.13, 0.10, 0.09),
        mean_share=0.47,
        mean_static=0.88,
        mean_next=0.96,
        channels=4.09,
        unevenness=0.63,
        norms=0.08,
    ),
    "audio/s4": Spectrum(
        variances=(6.00, 3.97, 2.60, 0.51, -0.79, -2.47, -4.00, -6.21),
        next_token=(0.79, 0.75, 0.73, 0.69, 0.64, 0.55, 0.49, 0.43),
        next_frame=(0.97, 0.73, 0.56, 0.32, 0.22, 0.14, 0.11, 0.06),
        mean_share=0.56,
        mean_static=0.68,
        mean_next=0.86,
        channels=1.70,
        unevenness=0.07,
        norms=0.19,
    ),
}


def spectral_tokens(layer: LayerSpec, frames: int, generator: torch.Generator) -> Tensor:
    """Raw tokens ``[T, N, D]`` of successive frames of one clip, float32, with the spectrum of the layer's stage.

    The basis, and the part of the mean that all frames share, belong to the stage and its width; everything else is
    drawn from ``generator``. Where a grid is too small for its tokens to be as alike as stated, they are as alike as it
    allows. Class tokens are like no other token; stages beyond the fourth are like the fourth.
    """
    stage = f"{layer.modality}/s{min(layer.stage, 4)}"
    spectrum = SPECTRA[stage]
    basis, common = _stage(stage, layer.width)
    components = torch.randn(frames, *layer.grid, layer.width - 1, generator=generator)
    process, kept = _grid_process(stage, layer.grid, layer.width)
    _correlate(components, at_components(spectrum.next_frame, layer.width))
    _correlate(components.movedim(1, 0), process)
    _correlate(components.movedim(2, 0), process)
    components -= components.mean((1, 2), keepdim=True)
    components /= kept.sqrt()
    alone = torch.randn(frames, layer.tokens - layer.grid[0] * layer.grid[1], layer.width - 1, generator=generator)
    components = torch.cat((alone, components.flatten(1, 2)), 1) if alone.numel() else components.flatten(1, 2)
    components *= component_variances(spectrum, layer.width).sqrt()
    x = components @ basis.T
    x += _means(spectrum, basis, common, frames, generator).unsqueeze(1)
    return _raw(x, spectrum, generator)


def at_components(values: tuple[float, ...], width: int) -> Tensor:
    """Values told at ``KNOTS``, at each of the M components of D channels."""
    return torch.from_numpy(np.interp(np.linspace(0, 1, width - 1), KNOTS, values)).float()


def component_variances(spectrum: Spectrum, width: int) -> Tensor:
    """The variances ``[M]`` of the deviations' components; with the mean's share they sum to D."""
    variances = at_components(spectrum.variances, width).exp2()
    return variances * ((1 - spectrum.mean_share) * width / variances.sum())


@lru_cache
def _stage(array: str, width: int) -> tuple[Tensor, Tensor]:
    """The basis ``[D, M]``, orthonormal and without a mean over channels, and the means' common direction ``[D]``."""
    generator = torch.Generator().manual_seed(width)
    draws = torch.randn(width, width, generator=generator)
    # large rows fill the first vectors, which vary most: those channels become the strong ones
    draws *= (SPECTRA[array].unevenness * torch.randn(width, 1, generator=generator)).exp()
    draws -= draws.mean(0)
    basis = torch.linalg.qr(draws).Q[:, :-1].contiguous()
    common = torch.randn(width, generator=generator)
    return basis, common - common.mean()


@lru_cache
def _grid_process(array: str, grid: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
    """A process's correlation ``[M]``, and the part ``[M]`` of its variance that is left without the grid's mean.

    Less its mean a process of correlation c and of a mean's variance v has neighbours of correlation (c - v) / (1 - v),
    which rises with c; c is found by bisection.
    """
    wanted = torch.tensor(SPECTRA[array].next_token, dtype=torch.float64)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, 0.999)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        variance = _mean_variance(middle, grid)
        below = (middle - variance) / (1 - variance) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    process = at_components(tuple(low.tolist()), width)
    return process, 1 - _mean_variance(process, grid)


def _mean_variance(correlation: Tensor, grid: tuple[int, int]) -> Tensor:
    """The variance of the mean of a process of variance 1 over the grid, for each correlation."""
    product = torch.ones_like(correlation)
    for side in grid:
        apart = torch.arange(1, side, dtype=correlation.dtype)
        sums = ((side - apart) * correlation.unsqueeze(-1) ** apart).sum(-1)
        product = product * (side + 2 * sums) / side**2
    return product


def _correlate(noise: Tensor, correlation: Tensor) -> None:
    """Make independent values along the first axis a process of that correlation, in place."""
    fresh = (1 - correlation.square()).sqrt()
    for index in range(1, len(noise)):
        noise[index].mul_(fresh).addcmul_(noise[index - 1], correlation)


def _means(spectrum: Spectrum, basis: Tensor, common: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """The frames' mean tokens ``[T, D]``: a part that all frames share, one of the clip, one of each frame."""
    width = len(common)
    scales = component_variances(spectrum, width).sqrt()
    drawn = (torch.randn(1 + frames, width - 1, generator=generator) * scales) @ basis.T
    shares = (spectrum.mean_static, spectrum.mean_next - spectrum.mean_static, 1 - spectrum.mean_next)
    parts = (common.unsqueeze(0), drawn[:1], drawn[1:])
    directions = [part / torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in parts]
    total = torch.zeros(frames, width)
    for share, direction in zip(shares, directions, strict=True):
        total = total + (share * spectrum.mean_share * width) ** 0.5 * direction
    return total


def _raw(x: Tensor, spectrum: Spectrum, generator: torch.Generator) -> Tensor:
    """Tokens with a norm of their own each: of variance 1 over channels before."""
    x /= x.square().mean(-1, keepdim=True).sqrt()
    x *= (spectrum.norms * torch.randn(*x.shape[:-1], 1, generator=generator)).exp()
    return x
