"""How the outcome of several heads is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import count, format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mettle_cache.pipelines.report.run_reports import GroupReport, Spread, TrainReport


def emit_group(report: GroupReport, *, table: bool = False) -> None:
    """Print heads that were trained together; ends the command with exit code 1 if one of them failed.

    ``table`` says that they are the rows of one, which ``mettle report`` shows.
    """
    then = [f"then       {command_line('mettle report', report.folder)}"] if table else []
    emit(report.to_json(), [*group_lines(report), *then])
    if report.errors:
        raise typer.Exit(1)


def group_lines(report: GroupReport) -> list[str]:
    """A table of the heads, mean and spread by variant, and what a reader of the numbers has to know."""
    first = report.heads[0]
    rows = [
        (
            str(head.out.relative_to(report.folder)),
            f"{head.best_epoch} of {head.epochs}",
            None if head.best_score is None else round(head.best_score, 2),
            "failed" if head.failure else "ok",
        )
        for head in report.heads
    ]
    return [
        *table_lines(("run", "best epoch", f"{first.selected_on} {first.metric}", "status"), rows),
        "",
        *spread_lines(report.summary),
        f"folder     {report.folder}",
        f"samples    {', '.join(f'{split} {count}' for split, count in first.samples.items())}",
        f"read       {format_bytes(report.bytes_read)} of tokens, {_how_often(report)}",
        f"speed      {report.clips_per_second:.1f} clips/s through all heads",
        *([f"tokens     {report.tokens}"] if report.tokens else []),
        f"memory     {memory_line(report)}",
        *(f"failed     {head.out}: {head.failure}" for head in report.heads if head.failure),
        *(f"note       {note}" for note in report.notes),
        f"next       {command_line('mettle evaluate', report.folder)}",
    ]


def memory_line(report: GroupReport | TrainReport) -> str:
    """The peak of memory beside what was foretold."""
    foretold = ""
    if report.foretold_memory_bytes:
        foretold = f"; foretold: {format_bytes(report.foretold_memory_bytes)}, libraries and what a step keeps aside"
    return f"{format_bytes(report.peak_memory_bytes)} at most, {report.peak_memory_of}{foretold}"


def _how_often(report: GroupReport) -> str:
    if report.passes == 1:
        return f"once for all {len(report.heads)} heads"
    return f"once for the heads of each of {report.passes} passes"


def spread_lines(summary: Sequence[Spread]) -> list[str]:
    """One line a variant: mean and standard deviation."""
    return [f"{spread.metric:<10} {describe_spread(spread)}" for spread in summary]


def describe_spread(spread: Spread) -> str:
    """For example ``56.13 ± 2.04 (3 heads), lcd.k_visual=2``."""
    mean = "no score" if spread.mean is None else f"{spread.mean:.2f}"
    std = "" if spread.std is None else f" ± {spread.std:.2f}"
    failed = f", {spread.failed} failed" if spread.failed else ""
    variant = f", {spread.variant}" if spread.variant else ""
    return f"{mean}{std} ({count(len(spread.scores), 'head')}{failed}){variant}"
