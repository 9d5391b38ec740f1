"""``mettle pull``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mettle_cache.cli.options import Debug, Json, path_option
from mettle_cache.cli.output import emit
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import format_bytes

EPILOG = """Examples:

\b
mettle pull hf://me/ave-tokens
mettle pull hf://me/ave-head@main --out runs/theirs
"""
PLACE = typer.Argument(metavar="hf://USER/NAME", help="The repository; @REVISION: at that branch, tag or commit.")
OUT = path_option("--out", text="Where it goes; by default cache/NAME.zarr or runs/NAME.")
NEXT = {"store": "mettle train --from-cache", "run": "mettle evaluate", "runs": "mettle report", "head": ""}


def register(app: typer.Typer) -> None:
    app.command("pull", epilog=EPILOG)(pull)


def pull(
    place: Annotated[str, PLACE],
    out: Annotated[Path | None, OUT] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch a store or runs from the Hugging Face Hub, and compare every byte with their records.

    A pull that was stopped goes on when it is run again; nothing is at its place before all of it is verified.
    """
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.share.address import parse_address

    address = parse_address(place)

    from mettle_cache.pipelines.share.pull import pull as fetch

    report = fetch(address, terminal_progress(), out=out)
    then = NEXT[report.kind]
    emit(
        report.to_json(),
        [
            f"pulled     {report.kind}, {report.files} files, {format_bytes(report.nbytes)}, verified",
            f"to         {report.out}",
            f"commit     {report.commit}",
            *([f"next       {command_line(then, report.out)}"] if then else []),
        ],
    )
