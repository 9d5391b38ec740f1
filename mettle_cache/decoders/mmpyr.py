"""MM-Pyramid: attention within a window and across modalities, in levels of growing reach; the default parsing head.

Shapes: B videos, T segments, h width, C categories, L levels. Source: docs/protocols/avvp.md, "MM-Pyramid" and "Choice
of decoder". The published code stacks [visual, audio] where it reads [audio, visual]; this does not. It also counts
layers that it only copies and norms that it never applies: 1,581,056 parameters at the sizes of the paper's row, which
this does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.mmil import (
    DEFAULT_SMOOTHING,
    MMILPooling,
    MotionFusion,
    Smoothing,
    require_divisor,
    weak_losses,
)
from mettle_cache.options import Heads, Options, Share, Width

ATTENTION_DROPOUT = 0.1
KERNEL = 3


@dataclass(frozen=True, kw_only=True)
class MMPyrOptions(Options):
    """The sizes of :class:`MMPyramid`; its width is that of the meta-tokens.

    ``ffn`` is the width of the feed-forward parts. Level i of ``levels`` reaches 2^i segments. ``heads`` are those of
    every attention, and divide the width. ``dropout`` is that after attention and within the feed-forward parts; the
    attention weights have their own 0.1.
    """

    ffn: Width = 1024
    levels: Annotated[int, Field(ge=1, le=16)] = 1
    heads: Heads = 8
    dropout: Share = 0.2


class MMPyramid(nn.Module):
    """The mixer on meta-tokens of width ``dim``, then :class:`MMILPooling`.

    Parameters
    ----------
    options
        Default: those of :class:`MMPyrOptions`.
    motion
        Whether the R(2+1)D features join the visual ones.

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
        options: MMPyrOptions | None = None,
        motion: bool = False,
        smoothing: Smoothing = DEFAULT_SMOOTHING,
    ) -> None:
        super().__init__()
        options = options or MMPyrOptions()
        ffn, heads, dropout = options.ffn, options.heads, options.dropout
        require_divisor(dim, heads)
        self.smoothing = smoothing
        self.motion = MotionFusion(dim) if motion else None
        self.levels = nn.ModuleList(
            [Level(dim, ffn, heads, dropout, reach=2**level) for level in range(options.levels)]
        )
        self.audio_fusion = LevelFusion(dim, ffn, heads, dropout)
        self.visual_fusion = LevelFusion(dim, ffn, heads, dropout)
        self.pooling = MMILPooling(dim, categories)

    def forward(self, visual: Tensor, audio: Tensor, motion: Tensor | None = None) -> dict[str, Tensor]:
        """``[B, T, h]`` each, and motion ``[B, T, 512]``, to the probabilities of :meth:`MMILPooling.forward`."""
        if self.motion is not None:
            visual = self.motion(visual, motion)
        kept: list[tuple[Tensor, Tensor]] = []
        for level in self.levels:
            visual, audio = level(visual, audio)
            kept.append((visual, audio))
        visual, audio = (torch.stack(features, dim=2) for features in zip(*kept, strict=True))
        pooled: dict[str, Tensor] = self.pooling(self.audio_fusion(audio), self.visual_fusion(visual))
        return pooled

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Three terms of equal weight for weak labels ``[B, C]``; their sum is the loss."""
        return weak_losses(outputs, labels, self.smoothing)


class Level(nn.Module):
    """Each modality attends to itself and to the other one; a gate weighs the two, a dilated convolution follows."""

    def __init__(self, dim: int, ffn: int, heads: int, dropout: float, *, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.self_visual, self.self_audio, self.cross = (AttentionLayer(dim, ffn, heads, dropout) for _ in range(3))
        self.visual_gate, self.audio_gate = Gate(dim), Gate(dim)
        self.visual_convolution, self.audio_convolution = (DilatedConvolution(dim, reach) for _ in range(2))

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, T, h]`` each to the same."""
        times = torch.arange(visual.shape[1], device=visual.device)
        hidden = (times[:, None] - times[None, :]).abs() > self.reach
        new_visual = self.visual_gate(self.self_visual(visual, visual, hidden), self.cross(visual, audio, hidden))
        new_audio = self.audio_gate(self.self_audio(audio, audio, hidden), self.cross(audio, visual, hidden))
        return self.visual_convolution(new_visual), self.audio_convolution(new_audio)


class AttentionLayer(nn.Module):
    """A transformer layer that normalises its queries only, not what they attend to."""

    def __init__(self, dim: int, ffn: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=ATTENTION_DROPOUT, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, hidden: Tensor | None = None) -> Tensor:
        """``[B, T, h]`` each; ``hidden`` ``[T, T]`` is true where a query must not look."""
        attended, _ = self.attention(self.attention_norm(query), memory, memory, attn_mask=hidden, need_weights=False)
        query = query + self.dropout(attended)
        result: Tensor = query + self.dropout(self.ffn(self.ffn_norm(query)))
        return result


class Gate(nn.Module):
    """Weighs what a modality takes from itself and from the other one, channel by channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        both = torch.cat((own, other), dim=-1)
        result: Tensor = self.own(both).sigmoid() * own + self.other(both).sigmoid() * other
        return result


class DilatedConvolution(nn.Module):
    """A convolution over time and one over channels, around a residual path."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.time = nn.Conv1d(dim, dim, KERNEL, padding=dilation, dilation=dilation)
        self.channels = nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return functional.relu(x + self.channels(functional.relu(self.time(x)))).transpose(1, 2)


class LevelFusion(nn.Module):
    """Joins the levels of each segment: they attend to one another, and a weight for each sums them up."""

    def __init__(self, dim: int, ffn: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.layer = AttentionLayer(dim, ffn, heads, dropout)
        self.weight = nn.Linear(dim, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """``[B, T, L, h]`` to ``[B, T, h]``."""
        flat = levels.flatten(0, 1)
        mixed = self.layer(flat, flat)
        fused: Tensor = (self.weight(mixed).sigmoid() * mixed).sum(dim=1).unflatten(0, levels.shape[:2])
        return fused
