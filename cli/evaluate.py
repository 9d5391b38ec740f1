"""``mettle evaluate``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Debug, Device, Json
from cli.output import emit
from cli.table import table_lines

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateReport

EPILOG = """Examples:

mettle evaluate runs/ave-swin-htsat-0

mettle evaluate runs/ave-swin-htsat-0 --split val --json
"""


def register(app: typer.Typer) -> None:
    app.command("evaluate", epilog=EPILOG)(evaluate)


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")],
    split: Annotated[str, typer.Option(help="The split to score.")] = "test",
    store: Annotated[Path | None, typer.Option(help="The run's store, where it has moved.")] = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a trained head by the published protocol, beside the paper's row."""
    from pipelines.evaluate import evaluate_run
    from pipelines.progress import terminal_progress

    report = evaluate_run(run, split=split, store=store, device=device, progress=terminal_progress())
    emit(report.to_json(), report_lines(report))


def report_lines(report: EvaluateReport) -> list[str]:
    """The score, what it may be compared with, and why it may not be."""
    score = report.scores[report.metric]
    floors = ", ".join(f"{name} {value:.2f}" for name, value in report.floors.items())
    return [
        f"{report.metric:<10} {score:.2f} on {report.split} ({report.samples} samples, epoch {report.best_epoch})",
        f"floor      {floors}",
        *(score_lines(report.scores, report.paper) if len(report.scores) > 1 else []),
        f"paper      {paper_line(report.paper)}",
        *(f"differs    {difference}" for difference in report.differs),
        f"written    {report.predictions}",
    ]


def score_lines(scores: Mapping[str, float], paper: Mapping[str, Any]) -> list[str]:
    """Every score of a task that has several, beside the published one."""
    published = paper.get("scores", {})
    rows = [(name, f"{value:.2f}", str(published.get(name, "-"))) for name, value in scores.items()]
    return ["", *table_lines(("score", "ours", "paper"), rows), ""]


def paper_line(row: Mapping[str, Any]) -> str:
    """What the published row is of, and its scores where one line holds them."""
    scores = [f"{name} {value}" for name, value in row["scores"].items()]
    described = [f"{row['visual']} + {row['audio']}", f"{row['total_m']} M parameters", row["source"]]
    return ", ".join([*(scores if len(scores) == 1 else []), row["setting"], *described])
