"""``mettle clean``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Json, path_argument
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import format_bytes

if TYPE_CHECKING:
    from mettle_cache.pipelines.inventory.cleaning import Cleaned, Removal

EPILOG = """Examples:

\b
mettle clean
mettle clean --yes
mettle clean cache/ave-swinv2_l-htsat-trial.zarr runs/trial
mettle clean runs --checkpoints --yes
"""
PLACES = "Folders to look through, by default cache/ and runs/; or stores and runs to remove as a whole."
YES = "Remove it; without this only show what would go."
LISTED = 3


def register(app: typer.Typer) -> None:
    app.command("clean", epilog=EPILOG)(clean)


def clean(
    places: Annotated[list[Path] | None, path_argument(PLACES, metavar="PATH")] = None,
    companions: Annotated[
        bool, typer.Option("--companions", help="Also the grids beside stores, which training makes anew.")
    ] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also what finished runs could be made longer from.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help=YES)] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what can be removed of stores and runs; remove it with --yes.

    Of a folder goes what nothing reads: files that killed writers left, and companions of other tokens than their
    store's. A store or a run goes as a whole where it is named itself, finished or not. What another process works in
    stays. Exit code 1 if something could not be removed.
    """
    from mettle_cache.pipelines.inventory.cleaning import Cleaned, find_removals, remove
    from mettle_cache.pipelines.inventory.entries import usual_folders

    usual = usual_folders()
    removals = find_removals(
        places or usual, companions=companions, checkpoints=checkpoints, runs=[*usual, *(places or [])]
    )
    cleaned = remove(removals) if yes else Cleaned()
    document = {
        "removals": [one.to_json() for one in removals],
        "removed": [str(one.path) for one in cleaned.removed],
        "refused": {str(path): reason for path, reason in cleaned.refused.items()},
        "nbytes": cleaned.nbytes if yes else sum(one.nbytes for one in removals),
    }
    again = command_line("mettle clean", *(places or []))
    options = [*(["--companions"] if companions else []), *(["--checkpoints"] if checkpoints else []), "--yes"]
    lines = cleaned_lines(cleaned) if yes else preview_lines(removals, " ".join([again, *options]))
    emit(document, lines)
    if cleaned.refused:
        raise typer.Exit(1)


def preview_lines(removals: Sequence[Removal], command: str) -> list[str]:
    """What would go and what it takes, with what has to be known before."""
    if not removals:
        return ["nothing to remove; name a store or a run to remove it as a whole: mettle ls lists them"]
    rows = [(format_bytes(one.nbytes), one.what, one.path) for one in removals]
    return [
        *table_lines(("size", "what", "path"), rows),
        "",
        *(f"in use     {one.path}: another process works with it, and it stays" for one in removals if one.busy),
        *(f"remembered {one.path}: by {_listing(one.remembered_by)}" for one in removals if one.remembered_by),
        f"in all     {format_bytes(sum(one.nbytes for one in removals))}; nothing was removed",
        f"next       {command}",
    ]


def cleaned_lines(cleaned: Cleaned) -> list[str]:
    """What went and what did not."""
    return [
        *(f"removed    {one.path} ({format_bytes(one.nbytes)})" for one in cleaned.removed),
        *(f"stays      {path}: {reason}" for path, reason in cleaned.refused.items()),
        f"freed      {format_bytes(cleaned.nbytes)}",
    ]


def _listing(runs: Sequence[Path]) -> str:
    more = f" and {len(runs) - LISTED} more runs" if len(runs) > LISTED else ""
    return ", ".join(str(run) for run in runs[:LISTED]) + more
