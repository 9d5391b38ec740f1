"""The history of a run: its epochs, the best of them, and the table of them that the run's folder holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

EpochRow = dict[str, float | int | None]


@dataclass
class History:
    """The epochs of a run, as ``last.safetensors`` holds them. Epochs count from 1; best epoch 0 means none."""

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float | None = None

    @property
    def epochs(self) -> int:
        return len(self.rows)

    def add(self, row: EpochRow, score: float | None) -> bool:
        """Append an epoch; whether it is the best: the latest of equals, as in the peers; without scores the last."""
        self.rows.append(row)
        best = score is None or self.best_score is None or score >= self.best_score
        if best:
            self.best_epoch, self.best_score = self.epochs, score
        return best


def history_table(rows: Sequence[EpochRow]) -> bytes:
    """``metrics.csv``; the columns are those of the first row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parse_history(content: bytes) -> list[EpochRow]:
    """The inverse of :func:`history_table`, numbers as floats. Raises ValueError for anything else."""
    rows: list[EpochRow] = []
    for line in csv.DictReader(content.decode("utf-8").splitlines(), strict=True):
        if None in line or None in line.values() or "loss" not in line:
            raise ValueError("a line is too long or too short, or there is no loss")
        rows.append({name: float(value) if value else None for name, value in line.items()})
    return rows
