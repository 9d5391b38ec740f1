"""The question encoder of the AVQA head (spec-avqa.md 4.1).

Shapes: B questions, L words, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

PADDING = 0


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
            lengths = (question != PADDING).sum(1).clamp_min(1).cpu()
            _, (hidden, cell) = self.lstm(pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False))
        else:
            _, (hidden, cell) = self.lstm(words)
        encoded: Tensor = self.linear(torch.tanh(torch.cat([hidden[-1], cell[-1]], dim=-1)))
        return encoded
