"""``mettle doctor``"""

from __future__ import annotations

from typing import Annotated

import typer

from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import hanging_lines, page_width

EPILOG = """Examples:

\b
mettle doctor
mettle doctor --no-measure --json
"""


def register(app: typer.Typer) -> None:
    app.command("doctor", epilog=EPILOG)(doctor)


def doctor(
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Time a read from the disk.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at this machine: versions, device, disk, weights and data, and what is missing.

    Missing weights or data are findings, not errors: the exit code is 0 all the same.
    """
    from mettle_cache.pipelines.doctor import examine

    diagnosis = examine(measure=measure)
    lines: list[str] = []
    width = page_width()
    for finding in diagnosis.findings:
        lines += hanging_lines(f"{'ok ' if finding.ok else 'no '} {finding.topic:<19} ", finding.found, width)
        if finding.advice:
            lines += hanging_lines(f"{'':24}", finding.advice, width)
    emit(diagnosis.to_json(), [*lines, f"next: {diagnosis.next_command}"])
