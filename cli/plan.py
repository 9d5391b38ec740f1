"""``mettle plan``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli.options import EXTRACTION, Debug, Json, takes
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.report.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.plan import PlanReport

EPILOG = """Examples:

\b
mettle plan --dataset ave --root data/AVE
mettle plan --dataset ave --codec int4 --layers stages --no-measure --json
"""
PLANNED = ("dataset", "root", "visual", "audio", "codec", "layers", "clips_per_shard", "options", "out", "device")


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=EPILOG)(plan)


@takes(EXTRACTION, *PLANNED, helps={"out": "Where the store would go."})
def plan(
    chosen: Mapping[str, Any],
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Time a forward pass and the disk.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what an extraction would cost, before anything runs. Exit code 1 if it could not start."""
    from mettle_cache.pipelines.extract.config import ExtractConfig
    from mettle_cache.pipelines.progress import terminal_progress

    config = ExtractConfig(**chosen)
    config.check_names()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.extract.plan import make_plan

    report = make_plan(config, measure=measure, progress=terminal_progress())
    emit(report.to_json(), report_lines(report))
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: PlanReport) -> list[str]:
    """The bill as tables and a verdict."""
    chosen = report.chosen
    lines = [
        f"{report.dataset} in {report.root}: {report.clips} clips, {report.rows} rows, {report.segments} segments each",
        "",
        *_stage_table(report),
        "",
        *_bill_table(report),
        "",
        f"chosen     {chosen.layers} at {chosen.codec}: {format_bytes(chosen.nbytes)} in {chosen.files:,} files",
        f"disk       {format_bytes(report.free)} free: {'fits' if chosen.fits else 'does NOT fit'} ({report.out})",
    ]
    if report.hours is not None:
        lines.append(f"extraction about {format_seconds(report.hours * 3600)} on {report.device}")
    lines.append(f"crossover  {report.verdict}")
    lines += [f"note       {note}" for note in report.notes]
    if report.missing:
        lines.append(f"missing    media of {report.missing} clips: mettle extract lists them")
    return lines


def _stage_table(report: PlanReport) -> list[str]:
    codecs = list(report.stages[0].clip_bytes)
    header = ("stage", "layers", "N", "D", *(f"{codec} a clip" for codec in codecs))
    rows = [
        (stage.array, stage.layers, stage.tokens, stage.width, *map(format_bytes, stage.clip_bytes.values()))
        for stage in report.stages
    ]
    return table_lines(header, rows)


def _bill_table(report: PlanReport) -> list[str]:
    header = ("layers", "codec", "a clip", "static", "in all", "files", "fits", "read clips/s")
    rows = [
        (
            bill.layers,
            bill.codec,
            format_bytes(bill.clip_bytes),
            format_bytes(bill.static_bytes) if bill.static_bytes else None,
            format_bytes(bill.nbytes),
            bill.files,
            "yes" if bill.fits else "no",
            None if bill.reads_per_second is None else format_rate(bill.reads_per_second),
        )
        for bill in report.bills
    ]
    return table_lines(header, rows)
