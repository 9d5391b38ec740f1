"""A run's folder while it trains: the checkpoints, the table of its epochs, and the loggers that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.pipelines.train.checkpoint import save_checkpoint
from mettle_cache.pipelines.train.epoch_pictures import EpochPictures
from mettle_cache.pipelines.train.history import history_table
from mettle_cache.pipelines.train.loggers.protocol import Status
from mettle_cache.pipelines.train.loggers.run_loggers import RunLoggers
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import Split
from mettle_cache.store.writing.durable import write_file
from mettle_cache.tasks.protocol import Predictions

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.run import Run


class Recorder:
    """Keeps a run in its folder: the checkpoints, the table of its epochs, and the events."""

    def __init__(
        self,
        folder: RunFolder,
        loggers: RunLoggers | None,
        pictures: EpochPictures | None,
        store_digest: str,
        steps: int,
    ) -> None:
        self._folder = folder
        self._loggers = loggers
        self._pictures = pictures
        self._store_digest = store_digest
        self._steps = steps
        self._identity = folder.read_config().identity

    def step(self, terms: Mapping[str, float], *, epoch: int, index: int) -> None:
        if self._loggers:
            self._loggers.scalars({"step/loss": sum(terms.values())}, step=epoch * self._steps + index)

    def epoch(self, run: Run, *, best: bool) -> None:
        history, folder = run.history, self._folder
        table = history_table(history.rows)
        # the name is that of the first version's files, which go on to be read
        last = {"history": vars(history), "trainee": run.state(), "run": self._identity}
        files: dict[Path, Callable[[Path], None]] = {
            folder.last: lambda path: save_checkpoint(path, run.tensors(), last),
            folder.metrics: lambda path: write_file(path, table),
        }
        if best:
            state = {
                "epoch": history.best_epoch,
                "score": history.best_score,
                "store": self._store_digest,
                "run": self._identity,
            }
            files[folder.best] = lambda path: save_checkpoint(path, run.model.state_dict(), state)
        folder.commit(files)
        row = {f"epoch/{name}": value for name, value in history.rows[-1].items() if value is not None}
        if self._loggers:
            del row["epoch/epoch"]
            self._loggers.scalars(row, step=history.epochs * self._steps)

    def show(self, run: Run, predictions: Predictions, split: Split) -> None:
        if self._loggers and self._pictures is not None:
            drawn = self._pictures.draw(predictions, split)
            if drawn:
                self._loggers.images(drawn, step=(run.history.epochs + 1) * self._steps)

    def close(self, run: Run, status: Status) -> None:
        if self._loggers:
            score = {} if run.history.best_score is None else {f"best/{run.task.metric}": run.history.best_score}
            self._loggers.close({**score, "best/epoch": run.history.best_epoch}, status)
