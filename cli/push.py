"""``mettle push``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mettle_cache.cli.options import Debug, Json, path_argument
from mettle_cache.cli.output import emit
from mettle_cache.pipelines.report.units import format_bytes

EPILOG = """Examples:

\b
mettle push cache/ave-swinv2_l-htsat.zarr hf://me/ave-tokens --private
mettle push runs/ave-0 hf://me/ave-head
"""
PLACE = typer.Argument(metavar="hf://USER/NAME", help="The repository; it is made where there is none. @BRANCH: on it.")


def register(app: typer.Typer) -> None:
    app.command("push", epilog=EPILOG)(push)


def push(
    path: Annotated[
        Path, path_argument("A finished store, a run, a folder of runs, or an exported head.", metavar="PATH")
    ],
    place: Annotated[str, PLACE],
    private: Annotated[
        bool, typer.Option("--private", help="Where the repository is new: only you may see it.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Share a store or runs on the Hugging Face Hub, with a card that is written from their records.

    A push that was stopped goes on when it is run again. The login is the hub's own: hf auth login, or HF_TOKEN.
    """
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.share.address import parse_address

    address = parse_address(place)

    from mettle_cache.pipelines.share.push import push as send

    report = send(path, address, terminal_progress(), private=private)
    emit(
        report.to_json(),
        [
            f"pushed     {report.kind} {report.path}, {report.files} files, {format_bytes(report.nbytes)}",
            f"to         {report.url}",
            f"commit     {report.commit}",
            *(f"note       {note}" for note in report.notes),
            "next       choose a licence on its page; others fetch it with: mettle pull " + str(address),
        ],
    )
