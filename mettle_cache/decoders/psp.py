"""Positive sample propagation: the core of the AVEL head, and its own classifier.

Shapes: B videos, T segments, d meta-token width, C event categories. Sources: docs/protocols/avel.md, "Positive sample
propagation" and "Losses and labels".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

OUT_DIM = 256
# a uniform row over T = 10 segments (0.1 each) must survive the threshold
THRESHOLD = 0.099
# and so over more segments than the published ones, of which each has less
SURVIVES = 0.99


class PSP(nn.Module):
    """Lets each modality take from the segments of the other that agree with it most.

    All six linears are without bias and start Xavier-uniform; the two outputs share one LayerNorm.
    """

    def __init__(self, dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.visual_1, self.visual_2, self.audio_1, self.audio_2 = (_linear(dim, dim) for _ in range(4))
        self.visual_out, self.audio_out = _linear(dim, OUT_DIM), _linear(dim, OUT_DIM)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(OUT_DIM, eps=1e-6)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, T, d]`` meta-tokens of each modality to ``[B, T, 256]`` features of each."""
        v1, v2 = self._branch(self.visual_1, visual), self._branch(self.visual_2, visual)
        a1, a2 = self._branch(self.audio_1, audio), self._branch(self.audio_2, audio)
        affinity = functional.relu(v2 @ a1.transpose(1, 2) / visual.shape[-1] ** 0.5)
        visual = visual + self.propagation(affinity) @ a2
        audio = audio + self.propagation(affinity.transpose(1, 2)) @ v1
        return self.norm(self._branch(self.visual_out, visual)), self.norm(self._branch(self.audio_out, audio))

    def propagation(self, affinity: Tensor) -> Tensor:
        """Rows of ``[B, T, T]`` as weights that sum to 1, those at or below the threshold dropped, or all 0.

        With more than ten segments the threshold is lower, so that a uniform row survives it as it does with ten.
        """
        weights = _normalise(affinity)
        threshold = min(THRESHOLD, SURVIVES / affinity.shape[-1])
        return _normalise(torch.where(weights > threshold, weights, 0.0))

    def _branch(self, linear: nn.Linear, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(functional.relu(linear(x)))
        return result


class PSP29(nn.Module):
    """PSP's classifier: one of the C categories or background for every segment (29-way on AVE).

    The loss adds ``avps_weight`` times the audio-visual pair similarity term (:func:`pair_similarity_loss`) to the
    cross-entropy; 0 disables the term.
    """

    def __init__(self, dim: int, categories: int, *, dropout: float = 0.1, avps_weight: float = 100.0) -> None:
        super().__init__()
        self.background = categories
        self.avps_weight = avps_weight
        self.psp = PSP(dim, dropout=dropout)
        self.classifier = nn.Sequential(
            nn.Linear(OUT_DIM, 64, bias=False), nn.ReLU(), nn.Linear(64, categories + 1, bias=False)
        )

    def forward(self, visual: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """``[B, T, d]`` each to ``segments`` ``[B, T, C + 1]`` logits and ``similarity`` ``[B, T]``, cosines."""
        visual, audio = self.psp(visual, audio)
        return {
            "segments": self.classifier((visual + audio) / 2),
            "similarity": functional.cosine_similarity(visual, audio, dim=-1),
        }

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The terms, already weighted, for labels ``[B, T]`` (C is background); their sum is the loss."""
        terms = {"segments": functional.cross_entropy(outputs["segments"].flatten(0, 1), labels.flatten())}
        if self.avps_weight:
            terms["avps"] = self.avps_weight * pair_similarity_loss(outputs["similarity"], labels != self.background)
        return terms


def pair_similarity_loss(similarity: Tensor, events: Tensor) -> Tensor:
    """Mean squared error between positive similarity over time and a target uniform over the event's segments.

    ``similarity`` ``[B, T]`` are cosines, ``events`` ``[B, T]`` booleans; a video without event spreads over all T.
    """
    spread = torch.where(events.any(dim=1, keepdim=True), events, True).to(similarity.dtype)
    target = spread / spread.sum(dim=1, keepdim=True)
    return functional.mse_loss(_normalise(functional.relu(similarity)), target)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def _normalise(rows: Tensor) -> Tensor:
    """L1-normalise the last axis of values that are not negative; a row of zeros stays one."""
    return rows / (rows.sum(dim=-1, keepdim=True) + 1e-8)
