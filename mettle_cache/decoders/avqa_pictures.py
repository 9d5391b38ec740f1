"""Pictures as the backbone's tokens and a few vectors on top of them, which no step of the head has to add up.

What is injected into a picture has rank K: ``x_n = v_n + Σ_k w_nk m_k`` for N positions and K vectors. Grounding asks
for inner products, norms and weighted sums of the positions only, and all of them split into the part of the tokens,
which get no gradient, and that of the vectors. So nothing of the size ``[N, D]`` is written or differentiated.

Shapes: ``...`` leading axes (clips, segments), N positions, D channels, K vectors, P vectors or shares asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_SQUARE = 1e-24
"""Of a norm that is divided by, as in :func:`torch.nn.functional.normalize`."""


@dataclass(frozen=True)
class Pictures:
    """``tokens [..., N, D]`` and, on top, ``weights [..., N, K]`` of ``vectors [..., K, D]``."""

    tokens: Tensor
    weights: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Pictures:
        """Tokens ``[..., N, D]`` with nothing on top."""
        *leading, positions, width = tokens.shape
        return cls(tokens, tokens.new_zeros(*leading, positions, 0), tokens.new_zeros(*leading, 0, width))

    def add(self, vectors: Tensor, weights: Tensor) -> Pictures:
        """Put more vectors ``[..., K, D]`` on top, with their weights ``[..., N, K]``."""
        return Pictures(self.tokens, torch.cat([self.weights, weights], -1), torch.cat([self.vectors, vectors], -2))

    def dense(self) -> Tensor:
        """The positions themselves, ``[..., N, D]``."""
        return self.tokens + self.weights @ self.vectors

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products of every position with ``vectors [..., P, D]``: ``[..., N, P]``."""
        products: Tensor = self.tokens @ vectors.mT + self.weights @ (self.vectors @ vectors.mT)
        return products

    def pool(self, shares: Tensor) -> Tensor:
        """Sums of the positions under ``shares [..., P, N]``: ``[..., P, D]``."""
        pooled: Tensor = shares @ self.tokens + (shares @ self.weights) @ self.vectors
        return pooled

    def norms(self) -> Tensor:
        """Length of every position, ``[..., N]``, never 0."""
        squares = torch.linalg.vector_norm(self.tokens, dim=-1).square()
        across = 2 * (self.tokens @ self.vectors.mT) + self.weights @ (self.vectors @ self.vectors.mT)
        norms: Tensor = (squares + (self.weights * across).sum(-1)).clamp_min(SMALLEST_SQUARE).sqrt()
        return norms


def inject_vectors(
    pictures: Pictures, vectors: Tensor, *, softmax_over: Literal["meta_tokens", "positions"]
) -> Pictures:
    """One step of equation 3.4 on top of the pictures: :func:`mettle_cache.methods.mti.inject` without adding up.

    ``vectors`` are meta-tokens ``[..., K, D]``; the softmax is over them or, with ``positions``, over the N positions.
    """
    if softmax_over == "meta_tokens" and vectors.shape[-2] == 1:
        return pictures.add(vectors, torch.ones_like(pictures.tokens[..., :1]))
    weights = pictures.inner(vectors).softmax(-1 if softmax_over == "meta_tokens" else -2)
    return pictures.add(vectors, weights)


def position_weights(pictures: Pictures, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax ``[..., N]`` over the positions of their cosines with ``direction [..., D]``, and their norms."""
    norms = pictures.norms()
    unit = functional.normalize(direction, dim=-1)
    return (pictures.inner(unit.unsqueeze(-2)).squeeze(-1) / norms).softmax(dim=-1), norms
