"""``mettle evaluate``"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.group import spread_lines
from mettle_cache.cli.options import Debug, Device, Json, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.errors import UsageError

if TYPE_CHECKING:
    from mettle_cache.pipelines.report.run_reports import EvaluateReport, EvaluationGroup

EPILOG = """Examples:

\b
mettle evaluate runs/ave-swinv2_l-htsat-ave-swin-htsat-0
mettle evaluate runs/ave-swinv2_l-htsat-ave-swin-htsat-0 --split val --json
mettle evaluate runs/ave-swinv2_l-htsat-ave-swin-htsat-sweep
"""


def register(app: typer.Typer) -> None:
    app.command("evaluate", epilog=EPILOG)(evaluate)


def evaluate(
    runs: Annotated[list[Path], path_argument("Folders of training runs, or of several runs each.", metavar="RUN")],
    split: Annotated[
        str, typer.Option(help="The split to score.", autocompletion=completion.one_of("train", "val", "test"))
    ] = "test",
    store: Annotated[Path | None, path_option(text="The runs' store, where it has moved.", metavar="STORE")] = None,
    root: Annotated[
        Path | None, path_option(text="The data set, for frames to draw on, or where it has moved.")
    ] = None,
    out: Annotated[
        Path | None, path_option(text="Where to write the results; by default each run's own folder.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw a sheet of predictions for each run.")
    ] = True,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score trained heads by the published protocol, beside the paper's row.

    Several runs of one store are scored in one pass over it, and their mean and standard deviation given.
    """
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.run_folder import find_runs

    _check_places(device, store, root)
    folders = [run for folder in runs for run in find_runs(folder)]

    from mettle_cache.pipelines.evaluate import evaluation

    group = evaluation.evaluate_runs(
        folders,
        split=split,
        store=store,
        root=root,
        out=out,
        pictures=pictures,
        device=device,
        progress=terminal_progress(),
    )
    if folders == runs[:1]:
        report = group.only()
        emit(report.to_json(), report_lines(report))
        return
    emit(group.to_json(), evaluation_lines(group))
    if group.failures:
        raise typer.Exit(1)


def _check_places(device: str | None, store: Path | None, root: Path | None) -> None:
    """Refuse what is not there before PyTorch loads, which takes seconds."""
    from mettle_cache.devices import check_device_name
    from mettle_cache.pipelines.places import require_store

    check_device_name(device)
    if store is not None:
        require_store(store)
    if root is not None and not root.is_dir():
        raise UsageError(f"--root {root}: there is no such folder", hint="name the data set's folder, or leave it out")


def report_lines(report: EvaluateReport) -> list[str]:
    """The score, what it may be compared with, and why it may not be."""
    score = report.scores[report.metric]
    floors = ", ".join(f"{name} {value:.2f}" for name, value in report.floors.items())
    return [
        f"{report.metric:<10} {score:.2f} on {report.split} ({report.samples} samples, epoch {report.best_epoch})",
        f"floor      {floors}",
        *(score_lines(report.scores, report.paper) if len(report.scores) > 1 else []),
        *paper_lines(report.paper),
        f"comparable {'yes' if report.comparable else 'no'}",
        *(f"differs    {difference}" for difference in report.differs),
        *(f"note       {note}" for note in report.notes),
        f"written    {report.predictions}",
        *(f"pictures   {path}" for path in report.pictures),
    ]


def evaluation_lines(group: EvaluationGroup) -> list[str]:
    """One line a run, mean and spread by variant, and what separates each of the runs from the paper's row."""
    failed = [f"failed     {run}: {error.message}" for run, error in group.failures]
    if not group.reports:
        return failed
    first = group.reports[0]
    rows = [
        (
            str(report.run),
            report.best_epoch,
            f"{report.scores[report.metric]:.2f}",
            "yes" if report.comparable else "no",
            "training failed" if report.training_failure else "ok",
        )
        for report in group.reports
    ]
    return [
        *table_lines(("run", "epoch", f"{group.split} {first.metric}", "comparable", "status"), rows),
        "",
        *spread_lines(group.summary),
        *failed,
        *(f"floor      {name} {value:.2f}" for name, value in first.floors.items()),
        *_common_lines("paper", [(one, [describe_row(one.paper)] if one.paper else []) for one in group.reports]),
        *_common_lines("differs", [(report, report.differs) for report in group.reports]),
        *_common_lines("note", [(report, report.notes) for report in group.reports]),
        *(f"note       {note}" for note in group.notes),
        "written    predictions and result.json in each run's folder",
    ]


def _common_lines(word: str, lines_of: Sequence[tuple[EvaluateReport, Sequence[str]]]) -> list[str]:
    """A line for each sentence under ``word``, with the variants or runs that it is for where it is not for all."""
    of_sentence: dict[str, list[str]] = {}
    for report, sentences in lines_of:
        for sentence in sentences:
            of_sentence.setdefault(sentence, []).append(report.variant or str(report.run))
    return [
        f"{word:<10} {sentence}" + ("" if len(runs) == len(lines_of) else f" ({', '.join(dict.fromkeys(runs))})")
        for sentence, runs in of_sentence.items()
    ]


def score_lines(scores: Mapping[str, float], paper: Mapping[str, Any] | None) -> list[str]:
    """Every score of a task that has several, beside the published one."""
    published = paper["scores"] if paper else {}
    rows = [(name, f"{value:.2f}", str(published.get(name, "-"))) for name, value in scores.items()]
    return ["", *table_lines(("score", "ours", "paper"), rows), ""]


def paper_lines(row: Mapping[str, Any] | None) -> list[str]:
    """What the published row is of, and its scores where one line holds them; nothing where nothing is published."""
    return [] if row is None else [f"paper      {describe_row(row)}"]


def describe_row(row: Mapping[str, Any]) -> str:
    """A published row in one line: its score where it has one, its setting, backbones, size and source."""
    scores = [f"{name} {value}" for name, value in row["scores"].items()]
    size = [] if row["total_m"] is None else [f"{row['total_m']} M parameters"]
    described = [row["setting"], f"{row['visual']} + {row['audio']}", *size, row["source"]]
    return ", ".join([*(scores if len(scores) == 1 else []), *described])
