"""The question answering head of MUSIC-AVQA and its successors (spec-avqa.md 4.1).

Shapes: B questions, T seconds, N positions, L words, C answers, D width of the head. Every axis is named in the code:
the published one squeezes, and breaks for a batch of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet, match_targets
from mettle_cache.decoders.avqa_pictures import Pictures
from mettle_cache.decoders.avqa_question import QuestionEncoder
from mettle_cache.decoders.avqa_temporal import TemporalAttention

MATCH_WEIGHT = 0.5


class AVQADecoder(nn.Module):
    """Grounds the sound in the pictures, attends to the seconds that the question asks for, and answers.

    Parameters
    ----------
    audio_dim, visual_dim
        Widths of the two inputs.
    words, answers
        Sizes of the vocabularies, padding included.
    dim
        D; None: that of the pictures, which the published grounding files want. Another one puts a linear on the
        pictures, as LAVISH does (spec-avqa.md 4.2).
    packed
        See :class:`QuestionEncoder`.
    """

    def __init__(
        self,
        audio_dim: int,
        visual_dim: int,
        *,
        words: int,
        answers: int,
        dim: int | None = None,
        dropout: float = 0.1,
        packed: bool = False,
    ) -> None:
        super().__init__()
        width = visual_dim if dim is None else dim
        self.visual = None if dim is None else nn.Linear(visual_dim, dim)
        self.question = QuestionEncoder(words, width, packed=packed)
        self.grounding = GroundingNet(audio_dim, width)
        self.visual_attention = TemporalAttention(width, dropout=dropout)
        self.audio_attention = TemporalAttention(width, dropout=dropout)
        self.fusion = nn.Linear(2 * width, width)
        self.answer = nn.Linear(width, answers)

    def forward(
        self, audio: Tensor, positive: Pictures, question: Tensor, negative: Pictures | None = None
    ) -> dict[str, Tensor]:
        """Logits ``answer [B, C]`` and, with negatives, ``match [2 B T, 2]`` (:meth:`GroundingNet.forward`).

        ``audio`` is ``[B, T, d_a]``, ``positive`` and ``negative`` are pictures of N positions d_v wide, leading axes
        ``[B, T]``; ``question`` holds word indexes ``[B, L]``. The answer does not depend on the negatives.
        """
        asked = self.question(question)
        heard, seen, match = self.grounding(audio, self._project(positive), negative and self._project(negative))
        found = [
            self.audio_attention(asked, heard) + heard.mean(dim=1),
            self.visual_attention(asked, seen) + seen.mean(dim=1),
        ]
        fused = self.fusion(torch.tanh(torch.cat(found, dim=-1)))
        outputs = {"answer": self.answer(torch.tanh(fused * asked))}
        return outputs if match is None else {**outputs, "match": match}

    def _project(self, pictures: Pictures) -> Pictures:
        return pictures if self.visual is None else Pictures.of(self.visual(pictures.dense()))

    def loss(self, outputs: dict[str, Tensor], answers: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the answers ``[B]`` and half of that of the match; the loss is their sum (spec-avqa 5)."""
        terms = {"answer": functional.cross_entropy(outputs["answer"], answers)}
        if "match" in outputs:
            match = functional.cross_entropy(outputs["match"], match_targets(outputs["match"]))
            terms["match"] = MATCH_WEIGHT * match
        return terms
