"""Scoring runs on a split, in one pass, with every difference between the result and the paper's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import MettleError, RunError, StoreError, UsageError
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.paths import command_line, local_path
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames, write_artefacts
from mettle_cache.pipelines.evaluate.comparison import compare_with_paper
from mettle_cache.pipelines.evaluate.sample_scores import sample_scores_file, sample_scores_table
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.run_reports import EvaluateReport, EvaluationGroup
from mettle_cache.pipelines.train.best_run import best_run
from mettle_cache.pipelines.train.loop import predict_split
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import NO_DIGESTS, RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder, hold_run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split, read_split
from mettle_cache.store.format.files import file_digest
from mettle_cache.store.writing.durable import make_folder, write_atomically
from mettle_cache.tasks.protocol import Predictions

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    store: str | Path | TokenStore | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score the best epoch of a run on a split of its store, by the published protocol, beside the paper's row.

    For example::

        report = evaluate("runs/first")
        report.scores[report.metric], report.differs

    Writes ``predictions-SPLIT.parquet`` and ``samples-SPLIT.parquet``, what each sample scored, into the run's folder,
    adds to its ``result.json``, and then draws predictions in ``artefacts-SPLIT``, or notes why it cannot.

    Parameters
    ----------
    run
        The folder that :func:`mettle_cache.pipelines.train.train` wrote.
    store
        The store to read, where it is no longer at the path that the run remembers. It must have the key of the
        store that the run was trained from: other tokens would give a number that means nothing.
    root
        The data set, for frames to draw predictions on; None: its default place, if it is there.
    out
        A folder for what is written; None: the run's own. The run is then read only, and may be on any medium.
    device, threads
        A GPU where there is one unless it says otherwise; how many threads read the store ahead of the batches.

    Raises
    ------
    RunError
        The run is missing, damaged, has no finished epoch, or was trained from another store.
    StoreMissingError
        The run's store is not where it was.
    UsageError
        There is no such split, or none of its samples has tokens.
    """
    group = evaluate_runs(
        [run], split=split, store=store, root=root, out=out, device=device, threads=threads, progress=progress
    )
    if group.failures:
        raise group.failures[0][1]
    return group.reports[0]


def evaluate_runs(
    runs: Sequence[str | Path],
    *,
    split: str = "test",
    store: str | Path | TokenStore | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluationGroup:
    """:func:`evaluate` for several runs; those of one store and batch size share a pass over the split.

    With ``out``, each run has a folder of its own in it, named as theirs. A run without a finished epoch, or
    whose outputs are not finite, is reported as a failure; the others are scored.

    Raises
    ------
    RunError, StoreMissingError, UsageError
        As :func:`evaluate`, for whatever is not of one run's own.
    """
    progress = progress or Silent()
    prepare_process()
    target, root = choose_device(device), local_path(root) if root else None
    paths, notes = _distinct([local_path(run) for run in runs])
    places = _places(paths, None if out is None else local_path(out))
    stores = _Stores(local_path(store) if isinstance(store, str | Path) else store)
    failures: list[tuple[Path, RunError]] = []
    with ExitStack() as held:
        loaded = []
        for path in paths:
            try:
                config = RunFolder(path).read_config()
                folder = RunFolder(path)
                held.enter_context(_hold(places[path]))
                if not config.has_digests:
                    progress.note(f"{path}: {NO_DIGESTS}")
                loaded.append(_load(folder, places[path], config, stores.open(config, path), split, target))
            except RunError as error:
                failures.append((path, error))
        reports, failed = _evaluate_loaded(loaded, root, threads, progress)
    scored = [reports[path] for path in paths if path in reports]
    notes += _twins(scored)
    return EvaluationGroup(split=split, reports=scored, failures=[*failures, *failed], notes=notes)


def _evaluate_loaded(
    loaded: Sequence[_TrainedRun], root: Path | None, threads: int, progress: Progress
) -> tuple[dict[Path, EvaluateReport], list[tuple[Path, RunError]]]:
    """The report of each run by its folder, and the failures of the others."""
    frames = {id(one.store): StoredFrames(one.store, root, progress) for one in loaded}
    if root is not None:  # a wrong one is told before anything is computed
        for of_store in frames.values():
            of_store.open()
    reports: dict[Path, EvaluateReport] = {}
    failures: list[tuple[Path, RunError]] = []
    predicted: list[tuple[_TrainedRun, Predictions]] = []
    for group in _group_by_pass(loaded):
        for trained, outcome in zip(group, _predict_together(group, threads, progress), strict=True):
            if isinstance(outcome, RunError):
                failures.append((trained.folder.path, outcome))
            else:
                reports[trained.folder.path] = _record(trained, outcome)
                predicted.append((trained, outcome))
    # when every score is on the disk, whatever becomes of the pictures
    for trained, predictions in predicted:
        path = trained.folder.path
        reports[path] = _show(trained, predictions, reports[path], frames[id(trained.store)], progress)
    return reports, failures


def _distinct(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each run once, by the first of its names, and a note for those that were named more than once."""
    names: dict[object, list[Path]] = {}
    for path in paths:
        status = path.stat() if path.exists() else None
        names.setdefault((status.st_dev, status.st_ino) if status else path, []).append(path)
    notes = [
        f"{same[0]} is named {len(same)} times ({', '.join(map(str, same))}) and counts once"
        for same in names.values()
        if len(same) > 1
    ]
    return [same[0] for same in names.values()], notes


def _twins(reports: Sequence[EvaluateReport]) -> list[str]:
    """A note for runs in folders of their own that hold the very same weights."""
    runs: dict[str, list[str]] = {}
    for report in reports:
        runs.setdefault(report.checkpoint_digest, []).append(str(report.run))
    return [
        f"{' and '.join(same)} hold the same weights: they are one result, and their spread says nothing"
        for same in runs.values()
        if len(same) > 1
    ]


def _places(paths: Sequence[Path], out: Path | None) -> dict[Path, RunFolder]:
    """Where the results of each run go."""
    if out is None:
        return {path: RunFolder(path) for path in paths}
    if RunFolder(out).config.exists():
        raise UsageError(f"--out {out}: this is a run's folder", hint="choose another one, or leave --out away")
    if len(paths) == 1:
        return {paths[0]: RunFolder(out)}
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return {path: RunFolder(out / path.absolute().relative_to(common)) for path in paths}


@contextmanager
def _hold(place: RunFolder) -> Iterator[None]:
    """Keep other processes from writing where results go."""
    make_folder(place.path)
    with ExitStack() as held:
        try:
            held.enter_context(hold_run(place.path))
        except StoreError as error:
            raise RunError(
                f"{place.path}: results cannot be written there ({error.message})",
                hint=f"{command_line('mettle evaluate', place.path, '--out')} FOLDER writes them elsewhere",
            ) from error
        yield


def _load(
    folder: RunFolder, place: RunFolder, config: RunConfig, store: TokenStore, split: str, device: torch.device
) -> _TrainedRun:
    run, epoch = best_run(folder, config, store, device)
    samples = read_split(store, split)
    if not samples.rows:
        raise no_samples(store, samples)
    # a damaged result is this run's failure, and known before the split is read
    folder.read_result()
    place.read_result()
    return _TrainedRun(folder, place, config, config.load_recipe(), store, samples, run, epoch)


def no_samples(store: TokenStore, split: Split) -> UsageError:
    """Why there is nothing to score: every clip of the split failed, or there is no such split."""
    see = f"see: {command_line('mettle info', str(store.path))}"
    if split.dropped:
        return UsageError(f"{store.path}: no sample of the {split.name} split has tokens: every clip failed", hint=see)
    known = [name for name in dict.fromkeys(store.samples["split"].to_pylist()) if read_split(store, name).rows]
    near = difflib.get_close_matches(split.name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"{store.path}: there is no split '{split.name}'", hint=f"{guess}it has {', '.join(known)}" if known else see
    )


def _group_by_pass(trained: Sequence[_TrainedRun]) -> list[list[_TrainedRun]]:
    """Runs that can take the same batches: those of one store, task and batch size."""
    groups: dict[tuple[object, ...], list[_TrainedRun]] = {}
    for one in trained:
        key = (id(one.store), one.recipe.task, one.recipe.train.batch_size)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _predict_together(group: Sequence[_TrainedRun], threads: int, progress: Progress) -> list[Predictions | RunError]:
    """Each run's predictions, from one pass over the split."""
    first, runs = group[0], [trained.run for trained in group]
    tasks, device = [run.task for run in runs], first.run.device
    loader = SampleLoader.with_grids(first.store, tasks, progress, device=device, threads=threads)
    if any(pools_tokens(run.model) for run in runs):
        loader.compile_kernels(first.split.rows, progress.note)
    progress.start(len(first.split), "clips", f"evaluate {first.split.name}")
    predictions = predict_split(runs, loader, first.split, first.recipe.train.batch_size, progress)
    progress.finish()
    return predictions


def _record(trained: _TrainedRun, predictions: Predictions) -> EvaluateReport:
    """Write predictions and report."""
    task, place = trained.run.task, trained.place
    report = _report(trained, predictions)
    rows, name = trained.split.rows, trained.split.name
    clips = trained.store.samples["clip"].take(pa.array(rows, pa.int64())).to_pylist()
    tables = {
        report.predictions: task.prediction_table(predictions, rows),
        sample_scores_file(place.path, name): sample_scores_table(rows, clips, task.sample_terms(predictions, rows)),
    }
    place.commit({path: partial(_write_table, table) for path, table in tables.items()})
    _write_report(trained, report)
    return report


def _show(
    trained: _TrainedRun, predictions: Predictions, report: EvaluateReport, frames: StoredFrames, progress: Progress
) -> EvaluateReport:
    """Draw the predictions; the report with what was drawn, or with a note that says why nothing was."""
    task, rows, folder = trained.run.task, trained.split.rows, trained.place.artefacts(trained.split.name)

    def files() -> Iterator[tuple[str, bytes]]:
        # matplotlib, which nothing but this needs
        from mettle_cache.pipelines.evaluate.sheets import sheet_files

        yield from task.artefacts(predictions, rows, frames)
        yield from sheet_files(trained.recipe.task, task, trained.store, report.split, rows, predictions, frames)

    try:
        pictures = write_artefacts(files(), folder)
    except Exception as error:  # noqa: BLE001 - a picture may fail in any way, and the scores stand all the same
        text = error.message if isinstance(error, MettleError) else f"{type(error).__name__}: {error}"
        note = f"no pictures could be drawn, so {folder.name} is not of this evaluation ({text})"
        progress.note(f"{report.run}: {note}")
        report = replace(report, notes=[*report.notes, note])
    else:
        report = replace(report, artefacts=folder if pictures else None, pictures=pictures)
    _write_report(trained, report)
    return report


def _write_report(trained: _TrainedRun, report: EvaluateReport) -> None:
    evaluation = {**_earlier(trained.place), trained.split.name: report.to_json()}
    trained.place.update_result({"evaluation": evaluation})


def _write_table(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda unfinished: pq.write_table(table, unfinished), needed=table.nbytes)


def _report(trained: _TrainedRun, predictions: Predictions) -> EvaluateReport:
    folder, store, task, split = trained.folder, trained.store, trained.run.task, trained.split
    # what selected the epoch in fact: a store without val samples makes the last one the best
    selected_on = trained.config.select_on if read_split(store, trained.config.select_on).rows else "last"
    training_result = folder.read_result().get("training", {})
    failure = training_result.get("failure")
    comparison = compare_with_paper(
        task,
        trained.recipe,
        store,
        split,
        selected_on=selected_on,
        ended_early=failure if training_result else "it was interrupted, or goes on",
    )
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
        differs=[*_since_training(trained), *comparison.differs],
        notes=comparison.notes,
        selected_on=selected_on,
        best_epoch=trained.epoch,
        times_evaluated=1
        + sum(int(_earlier(place).get(split.name, {}).get("times_evaluated", 0)) for place in {folder, trained.place}),
        predictions=trained.place.predictions(split.name),
        store=Path(store.path),
        store_digest=store.key_digest,
        checkpoint_digest=file_digest(folder.check(folder.best)),
        seed=trained.config.seed,
        variant=str(training_result.get("variant", "")),
        training_failure=failure,
    )


def _since_training(trained: _TrainedRun) -> list[str]:
    """That the tokens are no longer those that the run was trained on, where that is so."""
    if not trained.config.store.has_changed(trained.store.content_digest):
        return []
    return ["data: the store's clips were extracted again, or added, since the run was trained"]


def _earlier(folder: RunFolder) -> dict[str, Any]:
    """Evaluations that ``result.json`` holds already, by split."""
    return dict(folder.read_result().get("evaluation", {}))


@dataclass(frozen=True)
class _TrainedRun:
    """A run with the weights of its best epoch, the place of its results, and the samples to score it on."""

    folder: RunFolder
    place: RunFolder
    config: RunConfig
    recipe: Recipe
    store: TokenStore
    split: Split
    run: Run
    epoch: int


class _Stores:
    """Opens the stores of runs, each of them once; ``instead`` takes the place of all of them."""

    def __init__(self, instead: Path | TokenStore | None) -> None:
        self._instead = instead
        self._opened: dict[Path, TokenStore] = {}

    def open(self, config: RunConfig, run: Path) -> TokenStore:
        """As :meth:`StoreReference.open`."""
        if self._instead is not None and not isinstance(self._instead, Path):
            return config.store.open(run, instead=self._instead)
        path = self._instead or Path(config.store.path)
        self._opened[path] = config.store.open(run, instead=self._opened.get(path, path))
        return self._opened[path]
