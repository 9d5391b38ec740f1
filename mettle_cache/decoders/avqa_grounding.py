"""Audio-visual grounding and matching: the part of the AVQA head that is trained beforehand.

Source: docs/protocols/avqa.md, "Answering head" and "Grounding".

What is injected into a picture has rank K: ``x_n = v_n + Σ_k w_nk m_k`` for N positions and K vectors. Grounding asks
for inner products, norms and weighted sums of the positions only, and each of them is a part of the tokens, which get
no gradient, and a part of the vectors. So :class:`Pictures` keeps the two apart, and nothing of the size ``[N, D]`` is
written or differentiated.

Shapes: ``...`` leading axes (clips, segments), N positions, D width of the head, d_a of the audio features, K vectors,
P vectors or shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MATCH_WIDTHS = (512, 256, 128)
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
    """One step of equation 3.4 on top of the pictures, without adding up.

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


class Grounded(NamedTuple):
    """``audio`` and ``visual`` ``[..., D]``; ``match`` logits ``[2, ...]`` interleaved, or None without negatives."""

    audio: Tensor
    visual: Tensor
    match: Tensor | None


class GroundingNet(nn.Module):
    """Maps sound into the visual space, looks where it comes from, and tells whether picture and sound belong together.

    Its seven linears have the names of the published files, so that those load as they are. Cosines under a softmax of
    temperature 1 make the attention soft by construction: no position weighs more than e² times another.
    """

    def __init__(self, audio_dim: int, dim: int) -> None:
        super().__init__()
        self.fc_a1 = nn.Linear(audio_dim, dim)
        self.fc_a2 = nn.Linear(dim, dim)
        self.fc_gl = nn.Linear(2 * dim, dim)
        widths = (2 * dim, *MATCH_WIDTHS)
        self.fc1, self.fc2, self.fc3 = (nn.Linear(*pair) for pair in zip(widths, MATCH_WIDTHS, strict=False))
        self.fc4 = nn.Linear(MATCH_WIDTHS[-1], 2)

    def forward(self, audio: Tensor, positive: Pictures, negative: Pictures | None = None) -> Grounded:
        """Sound ``[..., d_a]`` with the pictures of its seconds and, in training, those of other videos.

        Match logits are ``[2 M, 2]`` for M leading places, those of the positive first, then its negative, and so on:
        the targets are 1, 0, 1, 0 (:func:`match_targets`).
        """
        heard = self.fc_a2(functional.relu(self.fc_a1(audio)))
        seen = self.ground(heard, positive)
        if negative is None:
            return Grounded(heard, seen, None)
        pairs = torch.stack([self.match(heard, seen), self.match(heard, self.ground(heard, negative))], dim=-2)
        return Grounded(heard, seen, pairs.flatten(0, -2))

    def ground(self, heard: Tensor, pictures: Pictures) -> Tensor:
        """What of pictures of N positions goes with ``heard [..., D]``: ``[..., D]``.

        The mean is of the positions, the attended sum of the positions brought to length 1.
        """
        weights, norms = position_weights(pictures, heard)
        shares = torch.stack([torch.full_like(norms, 1 / norms.shape[-1]), weights / norms], dim=-2)
        grounded: Tensor = self.fc_gl(torch.tanh(pictures.pool(shares).flatten(-2)))
        return grounded

    def match(self, heard: Tensor, seen: Tensor) -> Tensor:
        """Logits ``[..., 2]`` of not belonging together, and of belonging together."""
        x = torch.cat([heard, seen], dim=-1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = functional.relu(layer(x))
        logits: Tensor = self.fc4(x)
        return logits


def match_targets(logits: Tensor) -> Tensor:
    """1 for a positive and 0 for its negative, in turn, as the match logits ``[2 M, 2]`` are."""
    targets = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
    targets[::2] = 1
    return targets
