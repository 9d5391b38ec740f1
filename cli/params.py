"""``mettle params``"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import typer

from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import page_width, table_lines

EPILOG = """Examples:

\b
mettle params
mettle params --json
"""
COLUMNS = {
    "setting": "setting",
    "total_m": "total",
    "trainable_percent": "trains %",
    "paper_total_m": "paper",
    "paper_trainable_percent": "paper %",
    "difference_m": "off by",
    "trained_m": "trained",
}
"""What the rows call them, and the header. ``counting`` gives each row's rule below the table."""


def register(app: typer.Typer) -> None:
    app.command("params", epilog=EPILOG)(params)


def params(json: Json = False, debug: Debug = False) -> None:
    """Count the parameters of the published settings, beside what the paper prints (millions)."""
    from mettle_cache.pipelines.report.params import params_table

    rows = params_table()
    lines = table_lines(list(COLUMNS.values()), [[row[name] for name in COLUMNS] for row in rows])
    emit(rows, [*lines, "", *counting_lines(rows)])


def counting_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """What the totals count: each rule once, with the settings that it is for."""
    settings: dict[str, list[str]] = {}
    for row in rows:
        settings.setdefault(str(row["counting"]), []).append(str(row["setting"]))
    width = page_width()
    told = (
        textwrap.wrap(f"{', '.join(names)}: {rule}", width, subsequent_indent="  ", break_on_hyphens=False)
        for rule, names in settings.items()
    )
    return [line for lines in told for line in lines]
