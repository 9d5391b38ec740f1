"""Trained runs as figures need them: the best weights on the run's store, and runs of one store and task together."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.devices import choose_device
from mettle_cache.errors import RunError
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames
from mettle_cache.pipelines.evaluate.sample_scores import spread_over_ranks
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.train.best_run import best_run
from mettle_cache.pipelines.train.loop import predict_split
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.run_tokens import TokenOptions, open_tokens
from mettle_cache.pipelines.train.sample_loader import (
    SampleBatch,
    SampleLoader,
    Split,
    evaluation_inputs,
    read_split,
)
from mettle_cache.tasks.protocol import Predictions, Task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource
    from mettle_cache.store.reading.token_store import TokenStore


@dataclass(frozen=True)
class TrainedRun:
    """A run with the weights of its best epoch. ``label`` names it in figures."""

    label: str
    recipe: Recipe
    store: TokenSource
    run: Run

    @classmethod
    def load(
        cls, path: Path, label: str, *, store: Path | TokenStore | None = None, device: str | None = None
    ) -> TrainedRun:
        """The run in a folder.

        Raises
        ------
        RunError
            It has not finished an epoch, is damaged, or was trained from another store.
        StoreMissingError
            Its store is not where it was.
        """
        folder = RunFolder(path)
        config = folder.read_config()
        opened = open_tokens(path, config, TokenOptions(device=device), Silent(), instead=store)
        run, _ = best_run(folder, config, opened, choose_device(device))
        return cls(label, config.load_recipe(), opened, run)

    @functools.cached_property
    def loader(self) -> SampleLoader:
        return SampleLoader.for_tasks(self.store, [self.run.task], device=self.run.device)

    def split(self, name: str) -> Split:
        return read_split(self.store, name)

    def batches(self, rows: Sequence[int], split: Split) -> Iterator[SampleBatch]:
        """Samples of a split with their tokens, as evaluation reads them."""
        inputs = evaluation_inputs(self.run.task, split.rows)
        return self.loader.batches(rows, self.recipe.train.batch_size, inputs)


class RunGroup:
    """Runs of one store and task; the first of them decides which examples are shown. ``root`` is the data set's."""

    def __init__(self, runs: Sequence[TrainedRun], split: str, root: Path | None, progress: Progress) -> None:
        self.runs = tuple(runs)
        self.split = runs[0].split(split)
        self.progress = progress
        self.frames = StoredFrames(self.store, root, progress)
        self._predicted: dict[int, Predictions] = {}

    @property
    def store(self) -> TokenSource:
        return self.runs[0].store

    @property
    def task(self) -> Task:
        return self.runs[0].run.task

    def first(self, count: int, kind: str) -> tuple[TrainedRun, ...]:
        """At most so many runs, with a note where a figure of this kind has no room for all."""
        if len(self.runs) > count:
            self.progress.note(f"{kind}: there is room for {count} of {len(self.runs)} runs, the first ones")
        return self.runs[:count]

    def predictions(self, number: int) -> Predictions:
        """A run's predictions for the split; it predicts but once.

        Raises
        ------
        RunError
            The run's outputs are not finite.
        """
        if number not in self._predicted:
            trained = self.runs[number]
            self.progress.start(len(self.split), "clips", f"predict {self.split.name} with {trained.label}")
            batch_size = trained.recipe.train.batch_size
            outcome = predict_split([trained.run], trained.loader, self.split, batch_size, self.progress)[0]
            self.progress.finish()
            if isinstance(outcome, RunError):
                raise outcome
            self._predicted[number] = outcome
        return self._predicted[number]

    def examples(self, count: int) -> list[int]:
        """Places in the split from the best to the worst sample of the first run, evenly over the ranks.

        Samples rank by what each scores alone in the task's metric, equal ones as they are annotated.
        """
        scores = self.task.sample_scores(self.predictions(0), self.split.rows)
        return spread_over_ranks(scores, count)
