"""The question answering head of MUSIC-AVQA and its successors (docs/protocols/avqa.md, "Answering head").

Shapes: B questions, T seconds, N positions, L words, C answers, D width of the head. Every axis is named in the code:
the published one squeezes, and breaks for a batch of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet, Pictures, match_targets, position_weights
from mettle_cache.errors import UsageError

MATCH_WEIGHT = 0.5
ATTENTION_HEADS = 4
PADDING = 0


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
        pictures, as LAVISH does (docs/protocols/avqa.md, "LAVISH's width").
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
        encoded = self.question(question)
        heard, seen, match = self.grounding(audio, self._project(positive), negative and self._project(negative))
        attended = [
            self.audio_attention(encoded, heard) + heard.mean(dim=1),
            self.visual_attention(encoded, seen) + seen.mean(dim=1),
        ]
        fused = self.fusion(torch.tanh(torch.cat(attended, dim=-1)))
        outputs = {"answer": self.answer(torch.tanh(fused * encoded))}
        return outputs if match is None else {**outputs, "match": match}

    def look(self, audio: Tensor, positive: Pictures, question: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where :meth:`forward` looks: shares of the seconds that are seen and heard, ``[B, T]``, and of places.

        The places of each picture are ``[B, T, N]``. Each sums to 1 over its last axis; those of the seconds are the
        mean over the heads of the attention.
        """
        encoded, pictures = self.question(question), self._project(positive)
        heard, seen, _ = self.grounding(audio, pictures)
        places, _ = position_weights(pictures, heard)
        return self.visual_attention.shares(encoded, seen), self.audio_attention.shares(encoded, heard), places

    def _project(self, pictures: Pictures) -> Pictures:
        return pictures if self.visual is None else Pictures.of(self.visual(pictures.dense()))

    def loss(self, outputs: dict[str, Tensor], answers: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the answers ``[B]`` and half of that of the match; the loss is their sum.

        Source: docs/protocols/avqa.md, "Losses and negatives".
        """
        terms = {"answer": functional.cross_entropy(outputs["answer"], answers)}
        if "match" in outputs:
            match = functional.cross_entropy(outputs["match"], match_targets(outputs["match"]))
            terms["match"] = MATCH_WEIGHT * match
        return terms


class QuestionEncoder(nn.Module):
    """Embed the words, run an LSTM over them, and project its last states.

    The published encoder runs through the padding as through words; with ``packed`` it stops at a question's last word.
    """

    def __init__(self, words: int, dim: int, *, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.embedding = nn.Embedding(words, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, question: Tensor) -> Tensor:
        """Word indexes ``[B, L]``, padded on the right with 0, to ``[B, D]``."""
        words = torch.tanh(self.embedding(question))
        if self.packed:
            hidden, cell = self._states_at(words, (question != PADDING).sum(1).clamp_min(1))
        else:
            _, (hidden, cell) = self.lstm(words)
            hidden, cell = hidden[-1], cell[-1]
        encoded: Tensor = self.linear(torch.tanh(torch.cat([hidden, cell], dim=-1)))
        return encoded

    def _states_at(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's states ``[B, D]`` after ``lengths`` ``[B]`` of ``words`` ``[B, L, D]``.

        Step by step, because a packed sequence wants the lengths on the host, which would wait for the device.
        """
        from_words, from_state, bias, further_bias = self.lstm.all_weights[0]
        inputs = functional.linear(words, from_words, bias + further_bias)
        hidden = cell = words.new_zeros(len(words), self.lstm.hidden_size)
        for place, given in enumerate(inputs.unbind(1)):
            into, forget, new, out = (given + functional.linear(hidden, from_state)).chunk(4, dim=-1)
            moved = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            asked = (place < lengths).unsqueeze(-1)
            hidden = torch.where(asked, out.sigmoid() * moved.tanh(), hidden)
            cell = torch.where(asked, moved, cell)
        return hidden, cell


class TemporalAttention(nn.Module):
    """Attend to the seconds that the question asks for; the question itself is not added to what is found."""

    def __init__(self, dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        if dim % ATTENTION_HEADS:
            raise UsageError(
                f"the AVQA head is {dim} wide, which {ATTENTION_HEADS} attention heads do not divide",
                hint="set head.dim to a multiple of 4, for example 512",
            )
        self.attention = nn.MultiheadAttention(dim, ATTENTION_HEADS, dropout=dropout, batch_first=True)
        self.linear_1 = nn.Linear(dim, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, question: Tensor, seconds: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, T, D]`` to ``[B, D]``."""
        attended = self.attention(question.unsqueeze(1), seconds, seconds, need_weights=False)[0].squeeze(1)
        refined = self.linear_2(self.dropout(functional.relu(self.linear_1(attended))))
        normed: Tensor = self.norm(attended + self.dropout(refined))
        return normed

    def shares(self, question: Tensor, seconds: Tensor) -> Tensor:
        """How much of each second is attended to, ``[B, T]``: the mean over the heads."""
        weights: Tensor = self.attention(question.unsqueeze(1), seconds, seconds, need_weights=True)[1]
        return weights.squeeze(1)
