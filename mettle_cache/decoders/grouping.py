"""The blocks of the multi-modal grouping network: self-attention, and segments assigned to groups.

Shapes: B videos, N tokens, G groups, S segments to be grouped, h width. Source: docs/protocols/avvp.md, "MGN".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MLP_RATIO = 4
TOKEN_RATIO = 0.5


class SelfAttentionBlock(nn.Module):
    """A transformer block that normalises before each part; in training, a video skips a part now and then."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = _mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, h]`` to the same."""
        normed = self.attention_norm(x)
        x = x + self._sometimes(self.attention(normed, normed, normed, need_weights=False)[0])
        return x + self._sometimes(self.mlp(self.mlp_norm(x)))

    def _sometimes(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return branch
        kept = torch.empty(len(branch), 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(1 - self.drop_path)
        return branch * kept / (1 - self.drop_path)


class CrossAttentionBlock(nn.Module):
    """Groups attend to segments, then an MLP; normalised once, at the end."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = _mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, groups: Tensor, segments: Tensor) -> Tensor:
        """``[B, G, h]`` and ``[B, S, h]`` to ``[B, G, h]``."""
        groups = groups + self.attention(groups, segments, segments, need_weights=False)[0]
        result: Tensor = self.norm(groups + self.mlp(self.mlp_norm(groups)))
        return result


class Assignment(nn.Module):
    """Every segment is shared out among the groups, and a group is what it was assigned, almost averaged.

    ``hard`` gives each segment to one group, drawn in training (Gumbel, gradients straight through).
    """

    def __init__(self, dim: int, *, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, groups: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, G, h]`` and ``[B, S, h]`` to new groups ``[B, G, h]`` and the soft shares ``[B, G, S]``."""
        logits = self.query(groups) @ self.key(segments).transpose(1, 2) / groups.shape[-1] ** 0.5
        soft = logits.softmax(dim=1)
        shares = self._harden(logits) if self.hard else soft
        # the 1 keeps a group without segments from a division by zero
        weights = shares / (shares.sum(dim=2, keepdim=True) + 1)
        return self.out(weights @ self.value(segments)), soft

    def _harden(self, logits: Tensor) -> Tensor:
        if self.training:
            return functional.gumbel_softmax(logits, hard=True, dim=1)
        return torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1)


class GroupingBlock(nn.Module):
    """``groups`` seeds, mixed among themselves, collect the segments that belong to them."""

    def __init__(self, dim: int, groups: int, heads: int, *, hard: bool = False) -> None:
        super().__init__()
        self.seed_norm, self.mixed_norm, self.segment_norm, self.out_norm = (nn.LayerNorm(dim) for _ in range(4))
        self.mix = _mlp(groups, int(TOKEN_RATIO * dim), groups)
        self.attend = CrossAttentionBlock(dim, heads)
        self.assign = Assignment(dim, hard=hard)
        self.mlp = _mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, segments: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S, h]`` and ``[B, G, h]`` to groups ``[B, G, h]`` and the soft shares ``[B, G, S]``."""
        segments = self.segment_norm(segments)
        mixed = self.mixed_norm(self.mix(self.seed_norm(seeds).transpose(1, 2)).transpose(1, 2))
        groups = self.attend(mixed, segments)
        assigned, soft = self.assign(groups, segments)
        groups = groups + assigned
        return groups + self.mlp(self.out_norm(groups)), soft


def initialise(module: nn.Module) -> None:
    """Weights of linears and attentions from a truncated normal of 0.02, biases 0; for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
        nn.init.zeros_(module.in_proj_bias)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
