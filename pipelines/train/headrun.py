"""One head's run: the trainee, its folder, and what it has done so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.checkpoint import load_checkpoint, save_checkpoint
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.run_log import RunLog
from mettle_cache.pipelines.train.trainee import Trainee

Row = dict[str, float | int | None]


@dataclass
class History:
    """What ``last.safetensors`` remembers of a run; epochs count from 1, and best epoch 0 is none."""

    rows: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float | None = None

    @property
    def epochs(self) -> int:
        return len(self.rows)

    def add(self, row: Row, score: float | None) -> bool:
        """Append an epoch; whether it is the best: the first of equals, and without scores the latest."""
        self.rows.append(row)
        best = score is None or self.best_score is None or score > self.best_score
        if best:
            self.best_epoch, self.best_score = self.epochs, score
        return best


class HeadRun:
    """Trains and records one head; several can follow one pass over a store."""

    def __init__(self, trainee: Trainee, folder: RunFolder, *, store_digest: str) -> None:
        self.trainee = trainee
        self.folder = folder
        self.history = self._restore()
        self._store_digest = store_digest
        self._sums: dict[str, float] = {}
        self._samples = 0

    def _restore(self) -> History:
        last = self.folder.last
        if not last.exists():
            return History()
        tensors, state = load_checkpoint(last)
        try:
            history = History(**state["history"])
            self.trainee.restore(tensors, state["trainee"], where=last)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{last}: the checkpoint is not one of this run ({error})") from error
        return history

    def add_step(self, terms: Mapping[str, float], *, samples: int, log: RunLog, step: int) -> None:
        """Count one optimiser step's loss terms; ``step`` numbers it over the whole run."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * samples
        self._samples += samples
        log.step(terms, step=step)

    def end_epoch(self, scores: Mapping[str, float], *, split: str, speed: float, log: RunLog, step: int) -> str:
        """Record and keep the epoch: a kill leaves the state before it or after it, never between.

        ``scores`` are those on ``split``, empty without one. Gives the epoch's line for a human.
        """
        terms = {name: total / self._samples for name, total in self._sums.items()}
        self._sums, self._samples = {}, 0
        loss, metric = sum(terms.values()), self.trainee.task.metric
        row: Row = {
            "epoch": self.history.epochs + 1,
            "loss": loss,
            **{f"loss_{name}": value for name, value in terms.items()},
            **{f"{split}_{name}": value for name, value in scores.items()},
            "learning_rate": self.trainee.learning_rate,
            "clips_per_second": speed,
        }
        best = self.history.add(row, scores.get(metric))
        self.trainee.end_epoch()
        self._save(best)
        log.epoch(self.history.rows, step=step)
        scored = f", {split} {metric} {scores[metric]:.2f}{' (best)' if best else ''}" if scores else ""
        return f"loss {loss:.4f}{scored}, {speed:.1f} clips/s"

    def _save(self, best: bool) -> None:
        # best before last: a kill between the two repeats the epoch and writes the same best again
        if best:
            state = {
                "epoch": self.history.best_epoch,
                "score": self.history.best_score,
                "store": self._store_digest,
            }
            save_checkpoint(self.folder.best, self.trainee.model.state_dict(), state)
        kept = {"history": vars(self.history), "trainee": self.trainee.state()}
        save_checkpoint(self.folder.last, self.trainee.tensors(), kept)
