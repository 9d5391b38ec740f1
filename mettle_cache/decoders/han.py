"""The hybrid attention network: each modality attends to itself and to the other one at once.

Shapes: B videos, T segments, h width, C categories. Source: docs/protocols/avvp.md, "HAN". The published code registers
two encoders, a cross-modal one and two norms beside these that it never calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mettle_cache.decoders.mmil import (
    DEFAULT_SMOOTHING,
    MMILPooling,
    MotionFusion,
    Smoothing,
    require_divisor,
    weak_losses,
)
from mettle_cache.options import Heads, Options, Share, Width


@dataclass(frozen=True, kw_only=True)
class HANOptions(Options):
    """The sizes of :class:`HAN`; its width is that of the meta-tokens."""

    ffn: Width = 512
    heads: Heads = 1
    dropout: Share = 0.1


class HAN(nn.Module):
    """One hybrid layer, shared by both modalities, on meta-tokens of width ``dim``; then :class:`MMILPooling`.

    ``motion`` says whether the R(2+1)D features join the visual ones.

    Raises
    ------
    UsageError
        The attention heads do not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        categories: int,
        *,
        options: HANOptions | None = None,
        motion: bool = False,
        smoothing: Smoothing = DEFAULT_SMOOTHING,
    ) -> None:
        super().__init__()
        options = options or HANOptions()
        require_divisor(dim, options.heads)
        self.smoothing = smoothing
        self.motion = MotionFusion(dim) if motion else None
        self.layer = HybridLayer(dim, options.ffn, options.heads, options.dropout)
        self.pooling = MMILPooling(dim, categories)

    def forward(self, visual: Tensor, audio: Tensor, motion: Tensor | None = None) -> dict[str, Tensor]:
        """``[B, T, h]`` each, and motion ``[B, T, 512]``, to the probabilities of :meth:`MMILPooling.forward`."""
        if self.motion is not None:
            visual = self.motion(visual, motion)
        pooled: dict[str, Tensor] = self.pooling(self.layer(audio, visual), self.layer(visual, audio))
        return pooled

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Three terms of equal weight for weak labels ``[B, C]``; their sum is the loss."""
        return weak_losses(outputs, labels, self.smoothing)


class HybridLayer(nn.Module):
    """A transformer layer, normalised after each part, whose first part adds two attentions."""

    def __init__(self, dim: int, ffn: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.own = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, dim))
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, other: Tensor) -> Tensor:
        """``[B, T, h]`` of a modality and of the other one to ``[B, T, h]``."""
        crossed, _ = self.cross(query, other, other, need_weights=False)
        attended, _ = self.own(query, query, query, need_weights=False)
        query = self.attention_norm(query + self.dropout(crossed) + self.dropout(attended))
        result: Tensor = self.ffn_norm(query + self.dropout(self.ffn(query)))
        return result
