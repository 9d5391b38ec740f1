"""``mettle params``"""

from __future__ import annotations

import typer

from cli.options import Debug, Json
from cli.output import emit
from cli.table import table_lines

EPILOG = """Examples:

mettle params

mettle params --json
"""
COLUMNS = ("setting", "total_m", "trainable_percent", "paper_total_m", "paper_trainable_percent", "difference_m")


def register(app: typer.Typer) -> None:
    app.command("params", epilog=EPILOG)(params)


def params(json: Json = False, debug: Debug = False) -> None:
    """Count the parameters of the published settings, beside what the paper prints (millions)."""
    from pipelines.params import params_table

    rows = params_table()
    emit(rows, table_lines(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]))
