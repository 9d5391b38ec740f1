"""The history of a run, and its two records: ``metrics.csv``, with one row an epoch, and TensorBoard's events."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import write_file

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
        """Append an epoch; whether it is the best: the first of equals, and without scores the latest."""
        self.rows.append(row)
        best = score is None or self.best_score is None or score > self.best_score
        if best:
            self.best_epoch, self.best_score = self.epochs, score
        return best


class RunLog:
    """Writes both records; a context manager. ``start_step`` hides events that a killed run wrote beyond it.

    No file is made before there is something to record.
    """

    def __init__(self, folder: RunFolder, *, start_step: int) -> None:
        self._folder = folder
        self._start_step = start_step
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def _events(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder.events), purge_step=self._start_step or None)
        return self._writer

    def step(self, terms: Mapping[str, float], *, step: int) -> None:
        """The loss terms of one optimiser step, counted over the whole run."""
        self._events.add_scalar("step/loss", sum(terms.values()), step)

    def epoch(self, history: Sequence[EpochRow], *, step: int) -> None:
        """Write the table anew, so that a row is there once however often its epoch was run, and log the last row."""
        write_file(self._folder.metrics, _to_csv(history))
        for name, value in history[-1].items():
            if value is not None and name != "epoch":
                self._events.add_scalar(f"epoch/{name}", value, step)
        self._events.flush()


def _to_csv(rows: Sequence[EpochRow]) -> bytes:
    """The columns are those of the first row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
