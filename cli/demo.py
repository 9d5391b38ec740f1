"""``mettle demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mettle_cache.cli.options import Debug, Json, Seed, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines

EPILOG = """Examples:

\b
mettle demo
mettle demo --out /tmp/demo --json
"""


def register(app: typer.Typer) -> None:
    app.command("demo", epilog=EPILOG)(demo)


def demo(
    out: Annotated[Path | None, path_option(text="Where to work; by default runs/demo.")] = None,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Do the whole job on a small data set that is written here: under 3 minutes on a CPU."""
    from mettle_cache.pipelines.demo import FOLDER, run_demo
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.report.units import format_bytes, format_seconds

    report = run_demo(terminal_progress(), folder=out or FOLDER, seed=seed)
    rows = [
        (step.name, format_seconds(step.seconds), format_bytes(step.peak_memory), step.did) for step in report.steps
    ]
    verdict = "beats" if report.ok else "does NOT clearly beat"
    lines = [
        *table_lines(("step", "time", "memory", "what"), rows),
        f"all of it in {format_seconds(report.seconds)}",
        f"accuracy {report.accuracy:.1f} % {verdict} always-background {report.floor:.1f} %",
        "random weights and drawn scenes: this proves the plumbing, not the paper's number",
    ]
    emit(report.to_json(), lines)
    if not report.ok:
        raise typer.Exit(1)
