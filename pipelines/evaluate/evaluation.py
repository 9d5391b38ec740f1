"""Scoring runs on a split, in one pass, with every difference between the result and the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import MettleError, RunError
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.paths import local_path
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames, remove_artefacts, write_artefacts
from mettle_cache.pipelines.evaluate.comparison import compare_with_paper
from mettle_cache.pipelines.evaluate.runs_on_split import (
    RunOnSplit,
    RunStores,
    distinct_runs,
    group_by_pass,
    hold_place,
    load_on_split,
    result_places,
    without_failed,
)
from mettle_cache.pipelines.evaluate.sample_scores import sample_scores_file, sample_scores_table
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.run_reports import EvaluateReport, EvaluationGroup
from mettle_cache.pipelines.train.loop import predict_split
from mettle_cache.pipelines.train.run_config import NO_DIGESTS
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.run_tokens import TokenOptions
from mettle_cache.pipelines.train.sample_loader import SampleLoader, read_split
from mettle_cache.store.format.files import file_digest
from mettle_cache.store.reading.token_source import ClipsFailedError
from mettle_cache.store.writing.durable import write_atomically
from mettle_cache.tasks.protocol import Predictions

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    store: str | Path | TokenSource | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    pictures: bool = True,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score the best epoch of a run on a split of its store, by the published protocol, beside the paper's row.

    For example::

        evaluate("runs/first").scores["accuracy"]

    Writes ``predictions-SPLIT.parquet`` and ``samples-SPLIT.parquet``, what each sample scored, into the run's folder,
    adds to its ``result.json``, and then draws predictions in ``artefacts-SPLIT``, or notes why it cannot.

    Parameters
    ----------
    run, store
        The folder that training wrote; its store, where that has moved.
    root
        The data set, where it is not in its default place, or for a run without a store where it was.
    out
        A folder for what is written, by default the run's own; else the run is only read.
    pictures
        False: draw nothing, which takes a second or two a run, and remove what an earlier evaluation drew.
    device, threads
        By default a GPU where there is one; how many threads read ahead.

    Raises
    ------
    RunError, StoreMissingError, UsageError
        The run is missing, damaged, unfinished or of another store; its store or the split is not there.
    """
    return evaluate_runs(
        [run],
        split=split,
        store=store,
        root=root,
        out=out,
        pictures=pictures,
        device=device,
        threads=threads,
        progress=progress,
    ).only()


def evaluate_runs(
    runs: Sequence[str | Path],
    *,
    split: str = "test",
    store: str | Path | TokenSource | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    pictures: bool = True,
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
    paths, notes = distinct_runs([local_path(run) for run in runs])
    places = result_places(paths, None if out is None else local_path(out))
    options = TokenOptions(device=device, root=root)
    stores = RunStores(local_path(store) if isinstance(store, str | Path) else store, options, progress)
    failures: list[tuple[Path, RunError]] = []
    with ExitStack() as held:
        loaded = []
        for path in paths:
            try:
                config = RunFolder(path).read_config()
                folder = RunFolder(path)
                held.enter_context(hold_place(places[path]))
                if not config.has_digests:
                    progress.note(f"{path}: {NO_DIGESTS}")
                loaded.append(load_on_split(folder, places[path], config, stores.open(config, path), split, target))
            except RunError as error:
                failures.append((path, error))
        frames = _open_frames(loaded, root, progress) if pictures else None
        reports, failed = _evaluate_loaded(loaded, frames, threads, progress)
    scored = [reports[path] for path in paths if path in reports]
    notes += _twins(scored)
    return EvaluationGroup(split=split, reports=scored, failures=[*failures, *failed], notes=notes)


def _open_frames(loaded: Sequence[RunOnSplit], root: Path | None, progress: Progress) -> dict[str, StoredFrames]:
    """The frames of each store, by its key; a ``root`` that is no such data set is told before all else."""
    frames = {one.store.key_digest: StoredFrames(one.store, root, progress) for one in loaded}
    if root is not None:
        for of_store in frames.values():
            of_store.open()
    return frames


def _evaluate_loaded(
    loaded: Sequence[RunOnSplit], frames: Mapping[str, StoredFrames] | None, threads: int, progress: Progress
) -> tuple[dict[Path, EvaluateReport], list[tuple[Path, RunError]]]:
    """The report of each run by its folder, and the failures of the others; without ``frames`` nothing is drawn."""
    reports: dict[Path, EvaluateReport] = {}
    failures: list[tuple[Path, RunError]] = []
    predicted: list[tuple[RunOnSplit, Predictions]] = []
    for group in group_by_pass(loaded):
        for trained, outcome in _predict_together(group, threads, progress):
            if isinstance(outcome, RunError):
                failures.append((trained.folder.path, outcome))
            else:
                reports[trained.folder.path] = _record(trained, outcome)
                predicted.append((trained, outcome))
    # when every score is on the disk, whatever becomes of the pictures
    for trained, predictions in predicted:
        path, drawn = trained.folder.path, trained.place.artefacts(trained.split.name)
        if frames is None:
            remove_artefacts(drawn)
        else:
            reports[path] = _show(trained, predictions, reports[path], frames[trained.store.key_digest], progress)
    return reports, failures


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


def _predict_together(
    group: Sequence[RunOnSplit], threads: int, progress: Progress
) -> list[tuple[RunOnSplit, Predictions | RunError]]:
    """Each run with its predictions, from one pass over the split: over what is left of it where clips fail."""
    first, runs = group[0], [trained.run for trained in group]
    tasks, device = [run.task for run in runs], first.run.device
    loader = SampleLoader.with_grids(first.store, tasks, progress, device=device, threads=threads)
    try:
        if any(pools_tokens(run.model) for run in runs):
            loader.compile_kernels(first.split.rows, progress.note)
        progress.start(len(first.split), "clips", f"evaluate {first.split.name}")
        predictions = predict_split(runs, loader, first.split, first.recipe.train.batch_size, progress)
    except ClipsFailedError as error:
        progress.finish()
        progress.note(f"{error.message}: beginning again without")
        return _predict_together([without_failed(trained, error.rest) for trained in group], threads, progress)
    progress.finish()
    return list(zip(group, predictions, strict=True))


def _record(trained: RunOnSplit, predictions: Predictions) -> EvaluateReport:
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
    trained: RunOnSplit, predictions: Predictions, report: EvaluateReport, frames: StoredFrames, progress: Progress
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


def _write_report(trained: RunOnSplit, report: EvaluateReport) -> None:
    evaluation = {**_earlier(trained.place), trained.split.name: report.to_json()}
    trained.place.update_result({"evaluation": evaluation})


def _write_table(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda unfinished: pq.write_table(table, unfinished), needed=table.nbytes)


def _report(trained: RunOnSplit, predictions: Predictions) -> EvaluateReport:
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


def _since_training(trained: RunOnSplit) -> list[str]:
    """That the tokens are no longer those that the run was trained on, where that is so."""
    if not trained.config.store.has_changed(trained.store.content_digest):
        return []
    return ["data: the store's clips were extracted again, or added, since the run was trained"]


def _earlier(folder: RunFolder) -> dict[str, Any]:
    """Evaluations that ``result.json`` holds already, by split."""
    return dict(folder.read_result().get("evaluation", {}))
