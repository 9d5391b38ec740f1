"""What a run records as it goes: one row an epoch in ``metrics.csv``, and TensorBoard event files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import write_file

Row = Mapping[str, float | int | None]


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

    def epoch(self, history: Sequence[Row], *, step: int) -> None:
        """Write the table anew, so that a row is there once however often its epoch was run, and log the last row."""
        write_table(self._folder.metrics, history)
        for name, value in history[-1].items():
            if value is not None and name != "epoch":
                self._events.add_scalar(f"epoch/{name}", value, step)
        self._events.flush()


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV, atomically; the columns are those of the first row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
