"""Cross-modal background suppression's classifier on the features of PSP: the default AVEL head.

Shapes: B videos, T segments, d meta-token width, C event categories. Sources: docs/protocols/avel.md, "Background
suppression" (steps 6 and 7), "Parameter accounting" (why on PSP) and "Losses and labels" (the three loss terms).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.psp import OUT_DIM, PSP

VIDEO_SCORE_WEIGHT = 0.3
TOP_SEGMENTS = 4


class PSPCMBS(nn.Module):
    """Decides event or background for every segment, and one category for the whole video."""

    def __init__(self, dim: int, categories: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.background = categories
        self.psp = PSP(dim, dropout=dropout)
        self.visual_score = nn.Linear(OUT_DIM, categories)
        self.audio_score = nn.Linear(OUT_DIM, categories)
        self.event = nn.Linear(OUT_DIM, 1)
        self.category = nn.Linear(OUT_DIM, categories)

    def forward(self, visual: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """``[B, T, d]`` each to logits: ``event`` ``[B, T]``, ``category`` and ``score`` ``[B, C]``.

        ``score`` is the mean over the modalities of the best four segments' class scores.
        """
        visual, audio = self.psp(visual, audio)
        score = (_best_segments(self.visual_score(visual)) + _best_segments(self.audio_score(audio))) / 2
        fused = (visual + audio) / 2
        category = self.category(fused.amax(dim=1)) + VIDEO_SCORE_WEIGHT * score
        return {"event": self.event(fused).squeeze(-1), "category": category, "score": score}

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Three terms of equal weight for labels ``[B, T]`` (C is background); their sum is the loss."""
        events = labels != self.background
        category = video_category(labels, self.background)
        return {
            "event": functional.binary_cross_entropy_with_logits(outputs["event"], events.to(outputs["event"].dtype)),
            "category": functional.cross_entropy(outputs["category"], category),
            "score": functional.cross_entropy(outputs["score"], category),
        }


def video_category(labels: Tensor, background: int) -> Tensor:
    """The event's category ``[B]`` of labels ``[B, T]``; 0 for a video that is all background, as the peers have it."""
    return torch.where(labels == background, 0, labels).amax(dim=1)


def _best_segments(scores: Tensor) -> Tensor:
    """``[B, T, C]`` to ``[B, C]``: each category's mean over its four highest segments (all where T is less)."""
    return scores.topk(min(TOP_SEGMENTS, scores.shape[1]), dim=1).values.mean(dim=1)
