"""The loop over epochs: every batch of a store is read once and goes to each of the runs that share the pass.

A head gets the numbers that it would get alone, bit for bit on a CPU: batches follow from ``order_seed`` and the epoch,
a head's random numbers from its seed, epoch and step. Runs may be at different epochs, as a killed process leaves
them, and may have different numbers of epochs: each joins the passes that it lacks. A run that fails is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mettle_cache.errors import RunError
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.pipelines.progress import VERBOSITY, Progress, detail
from mettle_cache.pipelines.train.out_of_memory import telling_what_fits
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import (
    SampleLoader,
    Split,
    common_inputs,
    epoch_order,
    evaluation_inputs,
    training_inputs,
)
from mettle_cache.pipelines.train.shared_pass import SharedPass
from mettle_cache.pipelines.train.step_terms import StepTerms
from mettle_cache.tasks.protocol import Predictions


@dataclass
class Throughput:
    """Clips trained by this process, and the seconds it took."""

    clips: int = 0
    seconds: float = 0.0

    @property
    def clips_per_second(self) -> float:
        """0 where nothing was left to train."""
        return self.clips / self.seconds if self.seconds else 0.0


def train_epochs(shared: SharedPass, runs: Sequence[Run]) -> Throughput:
    """Train the epochs that are left to each run, score and save each epoch."""
    throughput = Throughput()
    epochs = sorted({epoch for run in runs for epoch in run.epochs_left})
    if not epochs:
        return throughput
    scored = len(shared.selection) if shared.selection else 0
    if any(pools_tokens(run.model) for run in runs):
        shared.loader.compile_kernels(shared.train.rows, shared.progress.note)
    shared.progress.start(len(epochs) * (len(shared.train) + scored), "clips", "train")
    for epoch in epochs:
        active = [run for run in _healthy(runs) if epoch in run.epochs_left]
        if active:
            _train_and_score(shared, active, epoch, throughput)
    shared.progress.finish()
    return throughput


def _train_and_score(shared: SharedPass, runs: Sequence[Run], epoch: int, throughput: Throughput) -> None:
    seconds = train_epoch(shared, runs, epoch)
    throughput.clips += len(shared.train)
    throughput.seconds += seconds
    split = shared.selection
    began = time.perf_counter()
    scores = _score_runs(shared, runs, split) if split else [{} for _ in runs]
    scored = time.perf_counter()
    for run, run_scores in zip(runs, scores, strict=True):
        if run.failure is None:
            split_name = split.name if split else ""
            line = run.end_epoch(run_scores, split=split_name, speed=len(shared.train) / seconds)
            shared.progress.note_of(run.label, line, begin=f"epoch {epoch + 1}/{run.epochs_left.stop}: ")
    spent = {"training": seconds, "scoring": scored - began, "saving": time.perf_counter() - scored}
    parts = (f"{value:.2f} s of {name}" for name, value in spent.items())
    detail(shared.progress, f"epoch {epoch + 1}: {', '.join(parts)}")


def train_epoch(shared: SharedPass, runs: Sequence[Run], epoch: int) -> float:
    """One pass over the train split, every batch to every run; the seconds it took."""
    started = time.perf_counter()
    rows = shared.train.rows
    order = [rows[position] for position in epoch_order(len(rows), seed=shared.order_seed, epoch=epoch)]
    inputs = common_inputs([training_inputs(run.task, rows, order_seed=shared.order_seed, epoch=epoch) for run in runs])
    steps = _StepLines(shared)
    for index, batch in enumerate(shared.loader.batches(order, shared.batch_size, inputs)):
        if not any(_healthy(runs)):
            break
        held = shared.static.hold(batch) if shared.static else batch
        for run in _healthy(runs):
            with _failing_alone(run, shared.progress):
                with telling_what_fits(shared, run, f"epoch {epoch + 1}, step {index + 1}"):
                    terms = run.step(held, epoch=epoch, index=index)
                steps.tell(run, terms)
        shared.progress.advance(len(batch.rows), nbytes=batch.tokens.nbytes)
    for run in _healthy(runs):
        with _failing_alone(run, shared.progress):
            run.settle()
            steps.tell(run, None)
    return time.perf_counter() - started


class _StepLines:
    """A line a step and run where the user wants to see them, one step late: a device must not wait for a line."""

    def __init__(self, shared: SharedPass) -> None:
        self._shared = shared
        self._last: dict[int, StepTerms] = {}

    def tell(self, run: Run, terms: StepTerms | None) -> None:
        """Tell of the run's step before this one, whose terms have been read."""
        if not VERBOSITY.verbose:
            return
        earlier = self._last.pop(id(run), None)
        if terms is not None:
            self._last[id(run)] = terms
        if earlier is not None:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in earlier.items())
            begin = f"epoch {earlier.epoch + 1}, step {earlier.index + 1}/{self._shared.steps}: "
            self._shared.progress.note_of(run.label, f"loss {sum(earlier.values()):.4f} ({listed})", begin=begin)


def predict_split(
    runs: Sequence[Run], loader: SampleLoader, split: Split, batch_size: int, progress: Progress
) -> list[Predictions | RunError]:
    """Each run's predictions for the samples of a split, in their order, from one pass over them.

    A run that fails (its outputs are not finite) has its error in their place, and the others go on.
    """
    parts: list[list[Predictions]] = [[] for _ in runs]
    failed: dict[int, RunError] = {}
    inputs = common_inputs([evaluation_inputs(run.task, split.rows) for run in runs])
    for batch in loader.batches(split.rows, batch_size, inputs):
        for number, run in enumerate(runs):
            if number not in failed:
                try:
                    parts[number].append(run.predict(batch))
                except RunError as error:
                    failed[number] = error
        progress.advance(len(batch.rows), nbytes=batch.tokens.nbytes)
    return [failed[number] if number in failed else join_predictions(part) for number, part in enumerate(parts)]


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of consecutive batches as those of all their samples."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _score_runs(shared: SharedPass, runs: Sequence[Run], split: Split) -> list[dict[str, float]]:
    """Each run's scores on a split, which is read once; empty for those that have failed."""
    scores: dict[int, dict[str, float]] = {id(run): {} for run in runs}
    healthy = list(_healthy(runs))
    outcomes = predict_split(healthy, shared.loader, split, shared.batch_size, shared.progress) if healthy else []
    for run, outcome in zip(healthy, outcomes, strict=True):
        with _failing_alone(run, shared.progress):
            if isinstance(outcome, RunError):
                raise outcome
            scores[id(run)] = run.task.score(outcome, split.rows)
            run.show(outcome, split)
    return list(scores.values())


@contextmanager
def _failing_alone(run: Run, progress: Progress) -> Iterator[None]:
    """Let a run fail without the others. A run without a label is alone, and the caller reports its failure."""
    try:
        yield
    except RunError as error:
        run.failure = error
        if run.label:
            progress.note(f"{run.label} failed and is left behind: {error.message}")


def _healthy(runs: Sequence[Run]) -> Iterator[Run]:
    return (run for run in runs if run.failure is None)
