"""Question-guided attention over the seconds of a video (spec-avqa.md 4.1).

Shapes: B questions, T seconds, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.errors import UsageError

HEADS = 4


class TemporalAttention(nn.Module):
    """Attend to the seconds that the question asks for; the question itself is not added to what is found."""

    def __init__(self, dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        if dim % HEADS:
            raise UsageError(
                f"the AVQA head is {dim} wide, which {HEADS} attention heads do not divide",
                hint="set head.dim to a multiple of 4, for example 512",
            )
        self.attention = nn.MultiheadAttention(dim, HEADS, dropout=dropout, batch_first=True)
        self.linear_1 = nn.Linear(dim, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, question: Tensor, seconds: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, T, D]`` to ``[B, D]``."""
        attended, _ = self.attention(question.unsqueeze(1), seconds, seconds, need_weights=False)
        found = attended.squeeze(1)
        refined = self.linear_2(self.dropout(functional.relu(self.linear_1(found))))
        normed: Tensor = self.norm(found + self.dropout(refined))
        return normed
