"""``mettle verify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Json, StoreArgument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import count, format_bytes

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.verify import SourcesReport
    from mettle_cache.store import VerifyReport

EPILOG = """Examples:

\b
mettle verify cache/ave-swinv2_l-htsat.zarr
mettle verify cache/ave-swinv2_l-htsat.zarr --deep
mettle verify cache/ave-swinv2_l-htsat.zarr --deep --repair
mettle verify cache/ave-swinv2_l-htsat.zarr --sources data/AVE
"""
LISTED = 20
EXIT_CODES = {"ok": 0, "damaged": 1, "unfinished": 2}


def register(app: typer.Typer) -> None:
    app.command("verify", epilog=EPILOG)(verify)


def verify(
    store: StoreArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Forget damaged clips, so that the next extract makes them anew.")
    ] = False,
    sources: Annotated[
        Path | None, path_option(text="Compare all media in this folder with those that the store was made of.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a store: every byte accounted for.

    Exit code 0 if it is whole, 1 if it is damaged or media have changed, 2 if it is only unfinished.
    """
    from mettle_cache.errors import StoreUnfinishedError
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.store import repair_store, verify_store
    from mettle_cache.store.format.metadata import load_metadata
    from mettle_cache.store.verify import clips_to_verify

    require_store(store)
    progress = terminal_progress()
    try:
        progress.start(clips_to_verify(load_metadata(store)), "clips", f"verify {store}")
        report = verify_store(store, deep=deep, advance=progress.advance)
    except StoreUnfinishedError as error:
        error.exit_code = EXIT_CODES["unfinished"]
        raise
    finally:
        progress.finish()
    forgotten = repair_store(report) if repair else 0
    document, lines = {**report.to_json(), "forgotten": forgotten}, report_lines(report, repaired=repair)
    if sources is None:
        emit(document, lines)
        ok = report.ok
    else:
        from mettle_cache.pipelines.extract.verify import verify_sources

        media = verify_sources(store, sources, progress)
        emit({**document, "sources": media.to_json()}, [*lines, *sources_lines(media)])
        ok = report.ok and media.ok
    if not ok:
        raise typer.Exit(EXIT_CODES[report.state] or 1)


def report_lines(report: VerifyReport, *, repaired: bool) -> list[str]:
    """The verdict, the problems, and what to do about them."""
    checked = f"every byte ({format_bytes(report.nbytes)})" if report.deep else "records and sizes; --deep reads all"
    problems = report.all_problems
    lines = [
        f"{report.path}: {report.state}",
        f"clips      {report.clips} committed, {report.failed} failed, {report.pending} pending",
        f"checked    {checked}",
        *(f"companion  {one.path.name}: {one.state}" for one in report.pooled),
        *(f"problem    {problem}" for problem in problems[:LISTED]),
    ]
    if len(problems) > LISTED:
        lines.append(f"           and {len(problems) - LISTED} more; --json lists all")
    again = "run the same mettle extract command again" if report.problems else "the next training makes them anew"
    if problems and repaired:
        forgotten = len(report.damaged) + sum(len(one.damaged) for one in report.pooled)
        removed = f", {count(len(report.companions), 'companion')} removed" if report.companions else ""
        lines.append(f"repaired   {count(forgotten, 'clip')} forgotten{removed}; {again}")
    elif problems:
        repair = command_line("mettle verify --deep --repair", report.path)
        then = "the same mettle extract command" if report.problems else "training, which makes anew what is damaged"
        lines.append(f"next       {repair}, then {then}")
    elif not report.ok:
        lines.append("next       run the same mettle extract or recode command again; it goes on from there")
    return lines


def sources_lines(media: SourcesReport) -> list[str]:
    """How many media are those of the store, which are not, and what to do about them."""
    lines = [
        f"media      {media.root}: {count(media.same, 'clip')} the same, {len(media.changed)} changed, "
        f"{len(media.missing)} not there",
        *(f"changed    {clip}: {what}" for clip, what in list(media.changed.items())[:LISTED]),
    ]
    if len(media.changed) > LISTED:
        lines.append(f"           and {len(media.changed) - LISTED} more; --json lists all")
    if media.other_annotations:
        lines.append("note       the annotations there are not those of the store")
    if media.foreign:
        lines.append("next       give the folder of this store's media: nothing there could be compared")
    if media.changed:
        lines.append("next       the same mettle extract command with --refresh, to extract just these clips again")
    return lines
