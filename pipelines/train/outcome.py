"""What is kept of a training for people: its report, in the run's folder too, and what its log begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mettle_cache.devices import peak_memory
from mettle_cache.errors import RunError
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.machine import describe_machine
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
from mettle_cache.pipelines.train.loggers.protocol import LoggedRun, Setting
from mettle_cache.pipelines.train.loggers.run_loggers import RunLoggers
from mettle_cache.pipelines.train.loop import Throughput
from mettle_cache.pipelines.train.recipe import flatten_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.shared_pass import SharedPass
from mettle_cache.pipelines.train.spec import RunSpec


def describe_training(shared: SharedPass, folder: Path) -> list[tuple[str, str]]:
    """The store, the samples and the machine, whose disk is that of ``folder``, for a log."""
    store, device = shared.loader.store, shared.loader.device
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    counts = ", ".join(f"{len(split)} {split.name}" for split in splits)
    where = store.path if store.computed is None else f"none, computed from {store.computed['root']}"
    return [
        ("store", f"{where}, key {store.key_digest}, {store.codec}: {counts} samples"),
        ("device", str(device)),
        *describe_machine(folder, str(device)).items(),
    ]


def open_loggers(folder: RunFolder, label: str, names: Sequence[str] | None, progress: Logged) -> RunLoggers:
    """The loggers ``names`` for the run that has claimed ``folder``."""
    config = folder.read_config()
    # of the store what tells one from another, not where it lies
    about = {"seed": config.seed, "select_on": config.select_on, "store": config.store.key_digest}
    about |= {"dataset": config.store.dataset, "codec": config.store.codec}
    settings = {name: value for name, value in {**flatten_recipe(config.recipe), **about}.items() if value is not None}
    group = folder.path.as_posix().removesuffix(f"/{label}").rpartition("/")[2] if label else ""
    run = LoggedRun(
        folder=folder.path,
        name=label or folder.path.name,
        group=group,
        settings={name: value if isinstance(value, Setting) else str(value) for name, value in settings.items()},
    )
    return RunLoggers(run, names, lambda text: progress.note_of(label, text))


def report_group(
    shared: SharedPass, specs: Sequence[RunSpec], runs: Sequence[Run], throughput: Throughput, notes: list[str]
) -> GroupReport:
    """Report every run, in its own folder too."""
    memory, memory_of = peak_memory(shared.loader.device)
    reports = []
    for spec, run in zip(specs, runs, strict=True):
        report = _report_run(shared, spec, run, throughput, notes)
        _keep_result(RunFolder(spec.out), report, shared.progress)
        shared.progress.log("result", _summary(report), of=run.label)
        reports.append(report)
    return GroupReport(
        folder=specs[0].folder,
        heads=reports,
        bytes_read=shared.loader.bytes_read,
        clips_per_second=throughput.clips_per_second,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        foretold_memory_bytes=shared.foretold_bytes,
        residence=_residence(shared),
        tokens=" ".join(shared.residence_notes(runs)),
        notes=notes,
        errors=[run.failure for run in runs if run.failure is not None],
    )


def _keep_result(folder: RunFolder, report: TrainReport, progress: Progress) -> None:
    """Put the outcome into the run's result; where nothing was trained, the result of the process that did stays."""
    try:
        earlier = folder.read_result()
    except RunError as error:
        progress.note(f"{error.message}; written again, without its evaluations")
        earlier = {}
    if report.clips_per_second or "training" not in earlier:
        folder.write_result({**earlier, "training": report.to_json()})


def _report_run(shared: SharedPass, spec: RunSpec, run: Run, throughput: Throughput, notes: list[str]) -> TrainReport:
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    dropped = {split.name: len(split.dropped) for split in splits}
    memory, memory_of = peak_memory(shared.loader.device)
    return TrainReport(
        out=spec.out,
        recipe=spec.recipe.name,
        seed=spec.seed,
        epochs=run.history.epochs,
        selected_on=shared.selection.name if shared.selection else "last",
        metric=run.task.metric,
        best_epoch=run.history.best_epoch,
        best_score=run.history.best_score,
        parameters=run.parameters,
        samples={split.name: len(split) for split in splits},
        dropped=dropped,
        clips_per_second=throughput.clips_per_second,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        foretold_memory_bytes=shared.foretold_bytes,
        residence=_residence(shared),
        tokens=" ".join(shared.residence_notes([run])),
        history=run.history.rows,
        notes=notes,
        variant=spec.variant,
        failure=run.failure.message if run.failure else None,
    )


def _residence(shared: SharedPass) -> dict[str, object]:
    return shared.residence.to_json() if shared.residence else {}


def _summary(report: TrainReport) -> str:
    """The outcome in a line."""
    score = "" if report.best_score is None else f", {report.selected_on} {report.metric} {report.best_score:.2f}"
    failed = f"; failed: {report.failure}" if report.failure else ""
    return f"best epoch {report.best_epoch} of {report.epochs}{score}{failed}"
