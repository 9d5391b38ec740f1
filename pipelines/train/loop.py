"""Heads that follow one pass over a store: every batch is read once and goes to each of them.

A head gets the numbers that it would get alone, bit for bit on a CPU: batches follow from ``order_seed`` and the epoch,
a head's random numbers from its seed, epoch and step. Heads may be at different epochs, as a killed process leaves
them, and may have different numbers of epochs: each joins the passes that it lacks. A head that fails is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mettle_cache.errors import RunError
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.binding import predict_split
from mettle_cache.pipelines.train.headrun import HeadRun
from mettle_cache.pipelines.train.run_log import RunLog
from mettle_cache.pipelines.train.sample_loader import Feed, Split, common_inputs, epoch_order, training_inputs


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What all heads of a pass share, their batches included."""

    feed: Feed
    batch_size: int
    order_seed: int
    train: Split
    selection: Split | None
    progress: Progress

    @property
    def steps(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.train) // self.batch_size)


@dataclass
class Member:
    """A head in a pass. ``label`` stands before its lines of progress, ``failure`` is what ended it early, if anything.

    A head without a label is alone, and says nothing of its own failure: that is the caller's to report.
    """

    run: HeadRun
    log: RunLog
    label: str = ""
    failure: RunError | None = None

    @property
    def epochs(self) -> range:
        """Epochs that are left, counted from 0."""
        return range(self.run.history.epochs, self.run.trainee.options.epochs)

    @contextmanager
    def failing_alone(self, progress: Progress) -> Iterator[None]:
        """Keep this head's own failure from the other heads."""
        try:
            yield
        except RunError as error:
            self.failure = error
            if self.label:
                progress.note(f"{self.label} failed and is left behind: {error.message}")


@dataclass
class Tally:
    """What the optimiser steps of this process came to."""

    clips: int = 0
    seconds: float = 0.0

    @property
    def clips_per_second(self) -> float:
        """0 where nothing was left to train."""
        return self.clips / self.seconds if self.seconds else 0.0


def train_members(shared: Pass, members: Sequence[Member]) -> Tally:
    """Train the epochs that are left to each head, score and save each epoch."""
    tally = Tally()
    passes = sorted({epoch for member in members for epoch in member.epochs})
    if not passes:
        return tally
    scored = len(shared.selection) if shared.selection else 0
    shared.progress.start(len(passes) * (len(shared.train) + scored), "clips", "train")
    for epoch in passes:
        active = [member for member in _healthy(members) if epoch in member.epochs]
        if active:
            _one_epoch(shared, active, epoch, tally)
    shared.progress.finish()
    return tally


def _one_epoch(shared: Pass, members: Sequence[Member], epoch: int, tally: Tally) -> None:
    seconds = train_epoch(shared, members, epoch)
    tally.clips += len(shared.train)
    tally.seconds += seconds
    split = shared.selection
    scores = _score_members(shared, members, split) if split else [{} for _ in members]
    for member, found in zip(members, scores, strict=True):
        if member.failure is not None:
            continue
        line = member.run.end_epoch(
            found,
            split=split.name if split else "",
            speed=len(shared.train) / seconds,
            log=member.log,
            step=(epoch + 1) * shared.steps,
        )
        name = f"{member.label}: " if member.label else ""
        shared.progress.note(f"epoch {epoch + 1}/{member.epochs.stop}: {name}{line}")


def train_epoch(shared: Pass, members: Sequence[Member], epoch: int) -> float:
    """One pass over the train split, every batch to every head; the seconds it took."""
    started = time.perf_counter()
    rows = shared.train.rows
    order = [rows[position] for position in epoch_order(len(rows), seed=shared.order_seed, epoch=epoch)]
    asked = [
        training_inputs(member.run.trainee.task, rows, order_seed=shared.order_seed, epoch=epoch) for member in members
    ]
    for index, batch in enumerate(shared.feed.batches(order, shared.batch_size, common_inputs(asked))):
        if not any(_healthy(members)):
            break
        for member in _healthy(members):
            with member.failing_alone(shared.progress):
                terms = member.run.trainee.step(batch, epoch=epoch, index=index)
                member.run.add_step(terms, samples=len(batch.rows), log=member.log, step=epoch * shared.steps + index)
        shared.progress.advance(len(batch.rows), nbytes=batch.tokens.nbytes)
    return time.perf_counter() - started


def _score_members(shared: Pass, members: Sequence[Member], split: Split) -> list[dict[str, float]]:
    """Each head's scores on a split, which is read once; empty for those that have failed."""
    scores: dict[int, dict[str, float]] = {id(member): {} for member in members}
    healthy = list(_healthy(members))
    trainees = [member.run.trainee for member in healthy]
    predictions = predict_split(trainees, shared.feed, split, shared.batch_size, shared.progress) if trainees else []
    for member, found in zip(healthy, predictions, strict=True):
        with member.failing_alone(shared.progress):
            if isinstance(found, RunError):
                raise found
            scores[id(member)] = member.run.trainee.task.score(found, split.rows)
    return list(scores.values())


def _healthy(members: Sequence[Member]) -> Iterator[Member]:
    return (member for member in members if member.failure is None)
