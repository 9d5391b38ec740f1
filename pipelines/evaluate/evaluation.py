"""Score runs on a split, in one pass, and say what separates each number from the paper's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.atomic import write_atomically
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames, write_artefacts
from mettle_cache.pipelines.evaluate.comparison import compare_with_paper
from mettle_cache.pipelines.evaluate.run_store import open_run_store
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.evaluate_report import EvaluateReport, EvaluationGroup
from mettle_cache.pipelines.train.binding import bind_task, predict_split
from mettle_cache.pipelines.train.checkpoint import file_digest, load_checkpoint
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run_folder import RunConfig, RunFolder, hold_run
from mettle_cache.pipelines.train.sample_loader import Feed, Split, read_split
from mettle_cache.pipelines.train.trainee import Trainee, union_of_layers
from mettle_cache.tasks.protocol import Predictions

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def evaluate_run(
    run: Path,
    *,
    split: str = "test",
    store: Path | TokenStore | None = None,
    root: Path | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score the best epoch of ``run``; writes ``predictions-SPLIT.parquet`` and adds to ``result.json``.

    What a task has to show of its predictions goes to ``artefacts-SPLIT``.

    Parameters
    ----------
    store
        The store to read, where it is no longer at the path that the run remembers. It must have the key of the
        store that the run was trained from: other tokens would give a number that means nothing.
    root
        The data set, for frames to draw predictions on; None: its default place, if it is there.

    Raises
    ------
    RunError
        The run is missing, damaged, has no finished epoch, or was trained from another store.
    StoreMissingError
        The run's store is not where it was.
    UsageError
        The split has no samples.
    """
    group = evaluate_runs([run], split=split, store=store, root=root, device=device, threads=threads, progress=progress)
    if group.failures:
        raise group.failures[0][1]
    return group.reports[0]


def evaluate_runs(
    runs: Sequence[Path],
    *,
    split: str = "test",
    store: Path | TokenStore | None = None,
    root: Path | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluationGroup:
    """:func:`evaluate_run` for several runs; those of one store and batch size share a pass over the split.

    A run without a finished epoch, or whose outputs are not finite, is reported as a failure; the others are scored.

    Raises
    ------
    RunError, StoreMissingError, UsageError
        As :func:`evaluate_run`, for whatever is not of one run's own.
    """
    progress = progress or Silent()
    prepare_process()
    target = choose_device(device)
    stores = _Stores(store)
    reports: dict[Path, EvaluateReport] = {}
    failures: list[tuple[Path, RunError]] = []
    with ExitStack() as held:
        loaded = []
        for run in dict.fromkeys(runs):
            config = RunFolder(run).read_config()
            folder = held.enter_context(hold_run(run))
            try:
                loaded.append(_load(folder, config, stores.open(config, run), split, target))
            except RunError as error:
                failures.append((run, error))
        for shared in _group_by_pass(loaded):
            for head, found in zip(shared, _predict_together(shared, threads, progress), strict=True):
                if isinstance(found, RunError):
                    failures.append((head.folder.path, found))
                else:
                    frames = StoredFrames(head.store, root, progress)
                    reports[head.folder.path] = _record(head, found, frames)
    return EvaluationGroup(split=split, reports=[reports[run] for run in runs if run in reports], failures=failures)


def find_runs(path: Path) -> list[Path]:
    """The run in a folder, or the runs one or two levels below it, seeds in numerical order.

    Raises
    ------
    RunError
        There is none.
    """
    if RunFolder(path).config.exists():
        return [path]
    found = [config.parent for pattern in ("*/config.json", "*/*/config.json") for config in path.glob(pattern)]
    if not found:
        raise RunError(f"{path}: there is no run here (no config.json)", hint="name a folder that train or sweep wrote")
    return sorted(found, key=lambda run: [_natural(part) for part in run.relative_to(path).parts])


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which seed-10 comes after seed-9."""
    return [(int(number or 0), words) for words, number in re.findall(r"(\D*)(\d*)", text)]


@dataclass(frozen=True)
class _Head:
    """A run's best weights and the samples to score them on."""

    folder: RunFolder
    config: RunConfig
    recipe: Recipe
    store: TokenStore
    split: Split
    trainee: Trainee
    epoch: int


class _Stores:
    """Opens the stores of runs, each of them once."""

    def __init__(self, given: Path | TokenStore | None) -> None:
        self._given = given
        self._opened: dict[Path, TokenStore] = {}

    def open(self, config: RunConfig, run: Path) -> TokenStore:
        """As :func:`open_run_store`."""
        if self._given is not None and not isinstance(self._given, Path):
            return open_run_store(config, self._given, run)
        path = self._given or Path(config.store.path)
        self._opened[path] = open_run_store(config, self._opened.get(path, path), run)
        return self._opened[path]


def _load(folder: RunFolder, config: RunConfig, store: TokenStore, split: str, device: torch.device) -> _Head:
    tensors, state = load_checkpoint(folder.best)
    recipe = config.load_recipe()
    task, chosen = bind_task(recipe, store), read_split(store, split)
    if not chosen.rows:
        raise UsageError(f"{store.path}: the {split} split has no samples with tokens", hint="mettle info STORE")
    trainee = Trainee(task, recipe.train, seed=config.seed, device=device)
    trainee.load_weights(tensors, where=folder.best)
    return _Head(folder, config, recipe, store, chosen, trainee, int(state["epoch"]))


def _group_by_pass(heads: Sequence[_Head]) -> list[list[_Head]]:
    """Heads that can take the same batches: those of one store, task and batch size."""
    groups: dict[tuple[object, ...], list[_Head]] = {}
    for head in heads:
        key = (id(head.store), head.recipe.task, head.recipe.train.batch_size)
        groups.setdefault(key, []).append(head)
    return list(groups.values())


def _predict_together(heads: Sequence[_Head], threads: int, progress: Progress) -> list[Predictions | RunError]:
    """Each head's predictions, from one pass over the split."""
    first, trainees = heads[0], [head.trainee for head in heads]
    layers = union_of_layers(first.store, trainees)
    feed = Feed(first.store, layers, device=first.trainee.device, threads=threads)
    progress.start(len(first.split), "clips", f"evaluate {first.split.name}")
    predictions = predict_split(trainees, feed, first.split, first.recipe.train.batch_size, progress)
    progress.finish()
    return predictions


def _record(head: _Head, predictions: Predictions, frames: StoredFrames) -> EvaluateReport:
    """Write the predictions, what shows them, and the report into the run's folder."""
    task, folder = head.trainee.task, head.folder
    shown = write_artefacts(task, predictions, head.split.rows, folder.artefacts(head.split.name), frames)
    report = replace(_report(head, predictions), artefacts=shown)
    table = task.prediction_table(predictions, head.split.rows)
    write_atomically(report.predictions, lambda partial: pq.write_table(table, partial), needed=table.nbytes)
    folder.update_result({"evaluation": {**_earlier(folder), head.split.name: report.to_json()}})
    return report


def _report(head: _Head, predictions: Predictions) -> EvaluateReport:
    folder, store, task, split = head.folder, head.store, head.trainee.task, head.split
    # what selected the epoch in fact: a store without val samples makes the last one the best
    selected_on = head.config.select_on if read_split(store, head.config.select_on).rows else "last"
    comparison = compare_with_paper(task, head.recipe, store, split, selected_on=selected_on)
    training = folder.read_result().get("training", {})
    return EvaluateReport(
        run=folder.path,
        split=split.name,
        samples=len(split),
        dropped=len(split.dropped),
        metric=task.metric,
        scores=task.score(predictions, split.rows),
        floors=task.floors(split.rows),
        details=task.details(predictions, split.rows),
        paper=comparison.paper_json(),
        differs=comparison.differs,
        comparable=not split.dropped and not read_split(store, "train").dropped,
        selected_on=selected_on,
        best_epoch=head.epoch,
        times_evaluated=int(_earlier(folder).get(split.name, {}).get("times_evaluated", 0)) + 1,
        predictions=folder.predictions(split.name),
        store=Path(store.path),
        store_digest=store.key_digest,
        checkpoint_digest=file_digest(folder.best),
        seed=head.config.seed,
        variant=str(training.get("variant", "")),
        training_failure=training.get("failure"),
    )


def _earlier(folder: RunFolder) -> dict[str, Any]:
    """Evaluations that ``result.json`` holds already, by split."""
    return dict(folder.read_result().get("evaluation", {}))
