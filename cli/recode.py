"""``mettle recode``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.options import Debug, Json, StoreArgument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.recode.config import RecodeReport

EPILOG = """Examples:

\b
mettle recode cache/ave-swinv2_l-htsat.zarr --codec int8 --out /disk/ave.zarr
mettle recode cache/ave-swinv2_l-htsat-float16.zarr --codec klt1.5 \\
    --out cache/ave-swinv2_l-htsat-klt1.5.zarr
"""


def register(app: typer.Typer) -> None:
    app.command("recode", epilog=EPILOG)(recode)


def recode(
    store: StoreArgument,
    codec: Annotated[
        str,
        typer.Option(
            metavar="NAME[=STORE]",
            help="The codec of the new store; its own: a copy. STORE: whose arrays.",
            autocompletion=completion.codecs,
        ),
    ],
    out: Annotated[Path, path_option(text="The new store.", metavar="NEW")],
    part: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for batch systems.")] = "1/1",
    clips_per_shard: Annotated[
        int | None,
        typer.Option(metavar="N", help="Clips that share a file of each stage; by default for files of 1 GiB."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a float16 or int8 store anew in another codec, without media. Run again to resume."""
    from mettle_cache.pipelines.extract.config import parse_part
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.recode.config import RecodeConfig

    config = RecodeConfig(store=store, codec=codec, out=out, part=parse_part(part), clips_per_shard=clips_per_shard)
    config.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.recode import run

    report = run.recode(config, terminal_progress())
    emit(report.to_json(), report_lines(report))
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: RecodeReport) -> list[str]:
    """What was written, what was not, and what to do next."""
    state = "finished" if report.finished else f"{report.pending} clips wait for other parts"
    lines = [
        f"store      {report.store} ({state}), {report.codec} from {report.source_codec}",
        f"clips      {report.clips}: {report.written} written, {report.skipped} were there, {report.failed} failed",
        f"written    {format_bytes(report.nbytes)} in {format_seconds(report.seconds)}",
        *(f"failed     {clip}: {reason}" for clip, reason in report.failures.items()),
    ]
    if report.finished:
        lines.append(f"next       {command_line('mettle train --from-cache', report.store)}")
    return lines
