"""``mettle ls``"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Json, path_argument
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.report.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.inventory.entries import Entry

EPILOG = """Examples:

\b
mettle ls
mettle ls runs /disk/stores --json
"""


def register(app: typer.Typer) -> None:
    app.command("ls", epilog=EPILOG)(ls)


def ls(
    folders: Annotated[
        list[Path] | None, path_argument("Folders of stores and runs; by default cache/ and runs/.", metavar="FOLDER")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List stores and runs: state, codec, size on disk, age and score."""
    from mettle_cache.pipelines.inventory.entries import list_entries, usual_folders

    entries = list_entries(folders or usual_folders())
    emit({"entries": [entry.to_json() for entry in entries]}, entry_lines(entries, time.time()))


def entry_lines(entries: Sequence[Entry], now: float) -> list[str]:
    """A table of the stores and one of the runs; paths come last, so that they can be as long as they are."""
    stores = [entry for entry in entries if entry.kind == "store"]
    runs = [entry for entry in entries if entry.kind == "run"]
    tables = [
        table_lines(
            ("state", "codec", "size", "age", "store"),
            [(state_of(one), one.codec or None, *_size_and_age(one, now), one.path) for one in stores],
        )
        if stores
        else [],
        table_lines(
            ("state", "score", "size", "age", "run"),
            [
                (
                    state_of(one),
                    None if one.score is None else f"{one.score:.2f} {one.scored}",
                    *_size_and_age(one, now),
                    one.path,
                )
                for one in runs
            ],
        )
        if runs
        else [],
    ]
    lines = [line for table in tables if table for line in ("", *table)][1:]
    return lines or ["no stores and no runs here", "next       mettle demo, or mettle extract --dataset NAME"]


def state_of(entry: Entry) -> str:
    """``finished``, ``unfinished 12/50``, or for a store that lacks clips ``finished 48/50``."""
    complete = entry.done is None or entry.done == entry.total or entry.state == "evaluated"
    return entry.state if complete else f"{entry.state} {entry.done}/{entry.total}"


def _size_and_age(entry: Entry, now: float) -> tuple[str, str]:
    return format_bytes(entry.nbytes), format_seconds(max(0.0, now - entry.modified))
