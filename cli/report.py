"""``mettle report``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Json, path_argument
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines

if TYPE_CHECKING:
    from mettle_cache.pipelines.tables.table import Table, TableRow

EPILOG = """Examples:

\b
mettle report runs/ave-swinv2_l-htsat-ave-swin-htsat-sweep
mettle report runs/ave-swinv2_l-htsat-ave-swin-htsat-sweep --split val --json
"""


def register(app: typer.Typer) -> None:
    app.command("report", epilog=EPILOG)(report)


def report(
    runs: Annotated[list[Path], path_argument("Folders of evaluated runs, or of several runs each.", metavar="RUN")],
    split: Annotated[str, typer.Option(help="The split whose scores are shown.")] = "test",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the scores of evaluated runs: mean and standard deviation over the seeds of each variant."""
    from mettle_cache.pipelines.tables.scored_runs import read_scored_runs
    from mettle_cache.pipelines.tables.table import make_table
    from mettle_cache.pipelines.train.run_folder import find_runs

    folders = [run for folder in runs for run in find_runs(folder)]
    table = make_table(read_scored_runs(folders, split), title="", split=split)
    emit({"tables": [table.to_json()]}, report_lines(table))


def report_lines(table: Table) -> list[str]:
    """The table as text."""
    return table_lines(("row", "seeds", f"{table.split} {table.metric}"), [_cells(row) for row in table.rows])


def _cells(row: TableRow) -> tuple[object, ...]:
    if row.mean is None:
        return row.name, 0, None
    return row.name, len(row.scores), f"{row.mean:.2f}" + ("" if row.std is None else f" ± {row.std:.2f}")
