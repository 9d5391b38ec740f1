"""What a codec does to a layer's tokens: relative errors of tokens and of frames' means, normalised and raw.

Shapes: T frames, N tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mettle_cache.layers import LayerSpec
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True)
class Share:
    """Squared differences and the squared values that they are of."""

    difference: float = 0.0
    whole: float = 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.difference + other.difference, self.whole + other.whole)

    @property
    def error(self) -> float:
        return (self.difference / self.whole) ** 0.5 if self.whole else 0.0

    @classmethod
    def of(cls, decoded: Tensor, exact: Tensor) -> Share:
        return cls(float((decoded - exact).square().sum()), float(exact.square().sum()))


@dataclass(frozen=True)
class CodecErrors:
    """Sums over frames; errors are L2 norms of differences over those of what they are of.

    Attributes
    ----------
    of_tokens, of_raw
        Tokens as a LayerNorm sees them, and as they are.
    of_mean, of_raw_mean
        Each frame's mean of either.
    """

    layer: LayerSpec
    of_tokens: Share = Share()
    of_raw: Share = Share()
    of_mean: Share = Share()
    of_raw_mean: Share = Share()

    def __add__(self, other: CodecErrors) -> CodecErrors:
        sums = [getattr(self, part.name) + getattr(other, part.name) for part in fields(self)[1:]]
        return CodecErrors(self.layer, *sums)

    @property
    def tokens(self) -> float:
        return self.of_tokens.error

    @property
    def raw(self) -> float:
        return self.of_raw.error

    @property
    def mean(self) -> float:
        return self.of_mean.error

    @property
    def raw_mean(self) -> float:
        return self.of_raw_mean.error


def codec_errors(layer: LayerSpec, x: Tensor, encoded: LayerTokens) -> CodecErrors:
    """Of tokens ``x`` ``[T, N, D]`` as they were encoded, in float64."""
    exact = x.double()
    normalised = torch.nn.functional.layer_norm(exact, exact.shape[-1:], eps=1e-5)
    decoded, raw = encoded.normalised(torch.float64), encoded.floats(torch.float64)
    return CodecErrors(
        layer,
        Share.of(decoded, normalised),
        Share.of(raw, exact),
        Share.of(decoded.mean(-2), normalised.mean(-2)),
        Share.of(raw.mean(-2), exact.mean(-2)),
    )
