"""Draw from trained runs whatever figures they give, as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mettle_cache.errors import MettleError, RunError, StoreError
from mettle_cache.paths import local_path
from mettle_cache.pipelines.figures.compute.learning_curves import run_curve
from mettle_cache.pipelines.figures.kinds import KINDS, LEARNING_CURVES, FigureKind, FigureOptions
from mettle_cache.pipelines.figures.learning_curves import LearningCurve, draw_learning_curves
from mettle_cache.pipelines.figures.style import save_figure
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.run_labels import run_labels
from mettle_cache.pipelines.train.run_folder import RunFolder, find_runs
from mettle_cache.pipelines.train.sample_loader import no_samples


def draw_figures(
    runs: Sequence[Path],
    folder: Path,
    progress: Progress | None = None,
    options: FigureOptions | None = None,
    *,
    store: Path | None = None,
    root: Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Write every figure that the runs give to ``folder``; the paths of the files.

    Runs of one store and task are drawn together. What cannot be drawn is left out, and a note says why.

    Parameters
    ----------
    runs
        Folders of runs, or of several runs each.
    store
        The runs' store, where it has moved.
    root
        The data set, for frames; None: its default place, if it is there.
    device
        As in evaluation.

    Raises
    ------
    RunError
        A folder holds no run, or none of the runs can be drawn.
    UsageError
        The store has no such split.
    NoRoomError, StoreError
        The figures cannot be written.
    """
    options, progress = options or FigureOptions(), progress or Silent()
    paths = list(dict.fromkeys(run for path in runs for run in find_runs(local_path(path))))
    labels = dict(zip(paths, run_labels(paths), strict=True))
    written: list[Path] = []
    if options.wants(LEARNING_CURVES):
        for name, figure in _learning_curves(labels, progress):
            written += save_figure(figure, folder, name)
    groups = _load_groups(labels, options, progress, store=store, root=root, device=device)
    for prefix, group in groups.items():
        for kind, how in KINDS.items():
            fitting = how.tasks is None or group.runs[0].recipe.task in how.tasks
            if fitting and options.wants(kind):
                written += _draw_kind(kind, how, group, folder / prefix, options)
    if not written:
        raise RunError(f"none of the {len(paths)} runs gives a figure", hint="the notes say why, run by run")
    return written


def _draw_kind(kind: str, how: FigureKind, group: RunGroup, place: Path, options: FigureOptions) -> list[Path]:
    """Write one kind's figures; ``place`` is the folder and how their names begin."""
    written: list[Path] = []
    try:
        for end, figure in how.draw(group, options):
            name = "-".join(part for part in (place.name, kind, _file_name(end)) if part)
            written += save_figure(figure, place.parent, name)
    except StoreError:
        raise
    except MettleError as error:
        group.progress.finish()
        group.progress.note(f"{place.name}-{kind} is left out: {error.message}")
    return written


def _learning_curves(labels: dict[Path, str], progress: Progress) -> Iterator[tuple[str, Figure]]:
    """One figure for every data set and score."""
    groups: dict[tuple[str, str], list[LearningCurve]] = {}
    for path, label in labels.items():
        try:
            config = RunFolder(path).read_config()
            curve, score = run_curve(path, label)
        except RunError as error:
            progress.note(f"{label} has no learning curve: {error.message}")
        else:
            groups.setdefault((config.store.dataset, score), []).append(curve)
    datasets = [dataset for dataset, _ in groups]
    for (dataset, score), curves in groups.items():
        end = f"-{_file_name(score)}" if datasets.count(dataset) > 1 else ""
        yield f"{dataset}-{LEARNING_CURVES}{end}", draw_learning_curves(curves, score_label=f"{score} (%)")


def _load_groups(
    labels: dict[Path, str],
    options: FigureOptions,
    progress: Progress,
    *,
    store: Path | None,
    root: Path | None,
    device: str | None,
) -> dict[str, RunGroup]:
    """Groups by how the names of their figures begin: the data set, or the store's name where it has several."""
    loaded: dict[tuple[str, str], list[TrainedRun]] = {}
    for path, label in labels.items():
        try:
            trained = TrainedRun.load(path, label, store=store, device=device)
        except (RunError, StoreError) as error:
            progress.note(f"{label} is in no figure of tokens: {error.message}")
        else:
            loaded.setdefault((str(trained.store.path), trained.recipe.task), []).append(trained)
    groups = {}
    datasets = [runs[0].store.dataset for runs in loaded.values()]
    for (place, _), runs in loaded.items():
        dataset = runs[0].store.dataset
        if not runs[0].split(options.split).rows:
            raise no_samples(runs[0].store, runs[0].split(options.split))
        prefix = dataset if datasets.count(dataset) == 1 else Path(place).stem
        groups[prefix] = RunGroup(runs, options.split, root, progress)
    return groups


def _file_name(label: str) -> str:
    """A label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.=+,-]+", "-", label)
