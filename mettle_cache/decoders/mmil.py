"""Multimodal multiple-instance pooling and the losses on weak labels: what the video parsing heads have in common.

Shapes: B videos, T segments, h width, C categories. Sources: docs/protocols/avvp.md, "MMIL pooling" and "Losses".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.errors import UsageError

MOTION_WIDTH = 512
"""Channels of the published R(2+1)D features."""

_NEAREST = 1e-7


@dataclass(frozen=True)
class Smoothing:
    """How far each modality's targets move towards a half: weak labels do not say which one an event is in."""

    audio: float = 0.0
    visual: float = 0.1


DEFAULT_SMOOTHING = Smoothing()


class MMILPooling(nn.Module):
    """Probabilities of segments, and of the video as their attentive mean over time and modalities."""

    def __init__(self, dim: int, categories: int) -> None:
        super().__init__()
        self.category = nn.Linear(dim, categories)
        self.segment_weight = nn.Linear(dim, categories)
        self.modality_weight = nn.Linear(dim, categories)

    def forward(self, audio: Tensor, visual: Tensor) -> dict[str, Tensor]:
        """``[B, T, h]`` each to probabilities.

        ``audio`` and ``visual`` ``[B, T, C]`` are those of the segments, ``video``, ``video_audio`` and
        ``video_visual`` ``[B, C]`` those of the video. The fused one can exceed 1: its two weights are normalised each
        by itself.
        """
        x = torch.stack((audio, visual), dim=2)
        segments = self.category(x).sigmoid()
        weighted = self.segment_weight(x).softmax(dim=1) * segments
        fused = weighted * self.modality_weight(x).softmax(dim=2)
        by_modality = weighted.sum(dim=1)
        return {
            "audio": segments[:, :, 0],
            "visual": segments[:, :, 1],
            "video": fused.sum(dim=(1, 2)),
            "video_audio": by_modality[:, 0],
            "video_visual": by_modality[:, 1],
        }


class MotionFusion(nn.Module):
    """Joins the R(2+1)D features to the visual ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.motion = nn.Linear(MOTION_WIDTH, dim)
        self.fuse = nn.Linear(2 * dim, dim)

    def forward(self, visual: Tensor, motion: Tensor) -> Tensor:
        """``[B, T, h]`` and ``[B, T, 512]`` to ``[B, T, h]``."""
        joined: Tensor = self.fuse(torch.cat((visual, self.motion(motion)), dim=-1))
        return joined


def require_divisor(dim: int, heads: int) -> None:
    """Raise UsageError where attention with ``heads`` heads cannot have width ``dim``."""
    if dim % heads:
        raise UsageError(
            f"{heads} attention heads do not divide the width of the meta-tokens, {dim}",
            hint="set the decoder's heads (head.mmpyr.heads, head.han.heads) or lcd.dim",
        )


def weak_losses(outputs: Mapping[str, Tensor], labels: Tensor, smoothing: Smoothing) -> dict[str, Tensor]:
    """Binary cross-entropy of the three video probabilities with the labels ``[B, C]``, each a mean over both axes."""
    labels = labels.to(outputs["video"].dtype)
    return {
        "video": _cross_entropy(outputs["video"], labels),
        "audio": _cross_entropy(outputs["video_audio"], _smooth(labels, smoothing.audio)),
        "visual": _cross_entropy(outputs["video_visual"], _smooth(labels, smoothing.visual)),
    }


def _smooth(labels: Tensor, amount: float) -> Tensor:
    return (1 - amount) * labels + amount * 0.5


def _cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy(probabilities.clamp(_NEAREST, 1 - _NEAREST), targets)
