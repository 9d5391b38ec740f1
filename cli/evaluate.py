"""``mettle evaluate``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Debug, Device, Json
from cli.output import emit

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
        f"paper      {json_line(report.paper)}" if report.paper else "paper      no published row for these backbones",
        *(f"differs    {difference}" for difference in report.differs),
        f"written    {report.predictions}",
    ]


def json_line(row: Mapping[str, object]) -> str:
    """A published row in one line."""
    return ", ".join(f"{name} {value}" for name, value in row.items() if value is not None)
