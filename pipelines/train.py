"""Stage two: train a head from a store. Knows no task; a task is asked for its model, targets, loss and score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import UsageError
from pipelines.binding import bind_task, choose_device, open_store, predict_split
from pipelines.feed import Feed, Split, epoch_order, read_split
from pipelines.headrun import HeadRun
from pipelines.progress import Progress, Silent
from pipelines.recipe_types import Recipe, TrainOptions
from pipelines.reproducible import fix_summation_order
from pipelines.runfolder import RunConfig, SelectOn, StoreReference, claim_run
from pipelines.runlog import RunLog
from pipelines.train_report import TrainReport, peak_memory
from pipelines.trainee import Trainee

if TYPE_CHECKING:
    from mettle_cache.store.reader import TokenStore


@dataclass(frozen=True)
class Pass:
    """What all heads of a pass over the store share, their batches included."""

    feed: Feed
    options: TrainOptions
    train: Split
    selection: Split | None
    progress: Progress

    @property
    def steps(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.train) // self.options.batch_size)


def train_run(
    store: Path | TokenStore,
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> TrainReport:
    """Train one head and keep the best epoch.

    On a CPU the same store, recipe and seed give the same weights bit for bit, resumed or not, whatever the number of
    reader threads (the number of PyTorch's own threads being the same, and PyTorch's first product of the process being
    ours or an extraction's: see reproducible.py).

    Parameters
    ----------
    select_on
        The split whose score picks the epoch to keep. ``test`` is what the peers do, and marks the result; ``last``
        keeps the last epoch. Where the store has no val samples, ``val`` keeps the last epoch and says so.
    resume
        Go on in ``out`` after the last finished epoch; starts from the beginning where there is none.

    Raises
    ------
    UsageError
        The recipe does not fit the store, or a split that is needed is empty.
    RunError
        ``out`` holds another run, or the loss is not finite.
    """
    progress = progress or Silent()
    fix_summation_order()
    opened, target = open_store(store), choose_device(device)
    task = bind_task(recipe, opened)
    train, selection, notes = _choose_splits(opened, select_on)
    # built before the folder is claimed: a recipe that does not fit the layers must not leave a run behind
    trainee = Trainee(task, recipe.train, seed=seed, device=target)
    shared = Pass(Feed(opened, task.layers, device=target, threads=threads), recipe.train, train, selection, progress)
    config = RunConfig(recipe=recipe.to_json(), seed=seed, select_on=select_on, store=StoreReference.of(opened))
    for note in notes:
        progress.note(note)
    with claim_run(out, config, resume=resume) as folder:
        run = HeadRun(trainee, folder, store_digest=opened.key_digest)
        speed = _train_epochs(shared, run)
        report = _report(shared, run, recipe=recipe.name, speed=speed, notes=notes)
        folder.update_result({"training": report.to_json()})
    return report


def _choose_splits(store: TokenStore, select_on: SelectOn) -> tuple[Split, Split | None, list[str]]:
    train = read_split(store, "train")
    if not train.rows:
        raise UsageError(f"{store.path}: the train split has no samples with tokens", hint="see: mettle info STORE")
    selection = read_split(store, select_on) if select_on != "last" else None
    notes = []
    if selection is not None and not selection.rows:
        if select_on == "test":
            raise UsageError(f"{store.path}: the test split has no samples to select on", hint="use --select-on val")
        notes.append("the val split has no samples: the last epoch is kept instead of the best")
        selection = None
    if select_on == "test":
        notes.append("the epoch is selected on the test split, as the peers do: its test accuracy is optimistic")
    dropped = len(train.dropped) + (len(selection.dropped) if selection else 0)
    if dropped:
        notes.append(f"samples left out because their clips have no tokens: {dropped}; the accuracy is not comparable")
    return train, selection, notes


def _train_epochs(shared: Pass, run: HeadRun) -> float:
    """Train the epochs that are left; samples a second over the optimiser steps."""
    progress, done, epochs = shared.progress, run.history.epochs, shared.options.epochs
    if done:
        progress.note(f"resuming after epoch {done} of {epochs}")
    if done >= epochs:
        return 0.0
    scored = len(shared.selection) if shared.selection else 0
    progress.start((epochs - done) * (len(shared.train) + scored), "clips", "train")
    seconds = 0.0
    with RunLog(run.folder, start_step=done * shared.steps) as log:
        try:
            for epoch in range(done, epochs):
                elapsed = train_epoch(shared, [(run, log)], epoch)
                seconds += elapsed
                speed = len(shared.train) / elapsed
                split, scores = _score(shared, run.trainee)
                step = (epoch + 1) * shared.steps
                line = run.end_epoch(scores, split=split, speed=speed, log=log, step=step)
                progress.note(f"epoch {epoch + 1}/{epochs}: {line}")
        except KeyboardInterrupt:
            progress.note(f"interrupted; go on after epoch {run.history.epochs} with --resume --out {run.folder.path}")
            raise
    progress.finish()
    return (epochs - done) * len(shared.train) / seconds


def train_epoch(shared: Pass, runs: Sequence[tuple[HeadRun, RunLog]], epoch: int) -> float:
    """One pass over the train split, every batch to every head; the seconds it took."""
    started = time.perf_counter()
    rows = shared.train.rows
    order = [rows[position] for position in epoch_order(len(rows), seed=shared.options.order_seed, epoch=epoch)]
    for index, (chosen, batch) in enumerate(shared.feed.batches(order, shared.options.batch_size)):
        for run, log in runs:
            terms = run.trainee.step(chosen, batch, epoch=epoch, index=index)
            run.add_step(terms, samples=len(chosen), log=log, step=epoch * shared.steps + index)
        shared.progress.advance(len(chosen), nbytes=batch.nbytes)
    return time.perf_counter() - started


def _score(shared: Pass, trainee: Trainee) -> tuple[str, dict[str, float]]:
    """The selection split's name and scores; empty without one."""
    split = shared.selection
    if split is None:
        return "", {}
    predictions = predict_split(trainee.predict, shared.feed, split, shared.options.batch_size, shared.progress)
    return split.name, trainee.task.score(predictions, split.rows)


def _report(shared: Pass, run: HeadRun, *, recipe: str, speed: float, notes: list[str]) -> TrainReport:
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    dropped = {split.name: len(split.dropped) for split in splits}
    memory, memory_of = peak_memory(run.trainee.device)
    return TrainReport(
        out=run.folder.path,
        recipe=recipe,
        seed=run.trainee.seed,
        epochs=run.history.epochs,
        selected_on=shared.selection.name if shared.selection else "last",
        metric=run.trainee.task.metric,
        best_epoch=run.history.best_epoch,
        best_score=run.history.best_score,
        parameters=run.trainee.parameters,
        samples={split.name: len(split) for split in splits},
        dropped=dropped,
        comparable=not any(dropped.values()),
        clips_per_second=speed,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        history=run.history.rows,
        notes=notes,
    )
