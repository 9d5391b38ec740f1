"""MoLT's token fusion, which weighs the layers of each token, and the regulariser that keeps tokens apart.

Shapes: ``...`` leading axes (clips, segments), n layers, K tokens of a layer, d channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Fusion = Literal["per_token", "per_layer", "mean"]


class TokenFusion(nn.Module):
    """``Z[k] = Σ_l w[l, k] T_l[k]``, the weights a softmax over layers of ``MLP(LN(T_l[k]))`` (d to d/4 to 1, GELU).

    ``per_layer`` scores the mean of a layer's tokens, so that all of them weigh alike; ``mean`` has no parameters.
    """

    def __init__(self, dim: int, kind: Fusion = "per_token") -> None:
        super().__init__()
        self.kind = kind
        inner = max(1, dim // 4)
        self.score = (
            None
            if kind == "mean"
            else nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, 1))
        )

    def forward(self, layer_tokens: Tensor) -> Tensor:
        """Fused tokens ``[..., K, d]`` of ``[..., n, K, d]``."""
        return (self.weights(layer_tokens).unsqueeze(-1) * layer_tokens).sum(-3)

    def weights(self, layer_tokens: Tensor) -> Tensor:
        """``[..., n, K]``, which sum to 1 over the layers."""
        shape = layer_tokens.shape[:-1]
        if self.score is None:
            return layer_tokens.new_full(shape, 1 / shape[-2])
        scored = layer_tokens if self.kind == "per_token" else layer_tokens.mean(-2, keepdim=True)
        weights: Tensor = self.score(scored).squeeze(-1).softmax(-2)
        return weights.expand(shape)


def orthogonality_loss(vectors: Tensor) -> Tensor:
    """Mean square of the cosines of different vectors among ``[..., M, D]``, averaged over the leading axes.

    That is ``‖Γ - I‖² / (M (M - 1))`` with the Gram matrix Γ of the normalised vectors: 0 for orthogonal ones, 1 where
    all are parallel; 0 for one alone.
    """
    count = vectors.shape[-2]
    if count < 2:
        return vectors.new_zeros(())
    identity = torch.eye(count, dtype=vectors.dtype, device=vectors.device)
    return (cosines(vectors) - identity).square().sum((-2, -1)).mean() / (count * (count - 1))


def cosines(vectors: Tensor) -> Tensor:
    """The cosine of each two of ``[..., M, D]``: ``[..., M, M]``."""
    normed = functional.normalize(vectors, dim=-1)
    return normed @ normed.mT
