"""Tables as columns of text, Markdown and CSV: the same cells in each, and the same lines below."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.tables.table import Table, TableRow

FORMATS = ("text", "markdown", "csv")
_COLUMNS = (
    *("table", "data set", "split", "metric", "row", "seeds", "failed"),
    *("mean", "std", "base", "difference", "low", "high", "paper", "target", "paper difference"),
)


def table_cells(table: Table) -> tuple[list[str], list[list[str | None]]]:
    """Header and rows, without columns that no row has anything for; None is a dash."""
    printed = bool(table.setting or table.source)
    header = ["row", "seeds", f"{table.split} {table.metric}", f"minus {table.base}", "95 % interval"]
    rows = [_cells(row, printed) for row in table.rows]
    header += ["paper", "paper's minus"] if printed else []
    filled = [column for column in range(len(header)) if any(row[column] is not None for row in rows)]
    return [header[column] for column in filled], [[row[column] for column in filled] for row in rows]


def _cells(row: TableRow, printed: bool) -> list[str | None]:
    seeds = str(len(row.scores)) + (f" ({row.failed} failed)" if row.failed else "")
    spread = "" if row.std is None else f" ± {row.std:.2f}"
    one = row.difference
    paper = None if row.paper is None else f"{row.paper:.1f}" if row.target else f"({row.paper:.1f})"
    cells = [
        row.name,
        seeds,
        None if row.mean is None else f"{row.mean:.2f}{spread}",
        None if one is None else f"{one.mean:+.2f}",
        None if one is None or one.interval is None else f"{one.interval.low:+.2f} to {one.interval.high:+.2f}",
    ]
    theirs = None if row.paper_difference is None else f"{row.paper_difference:+.1f}"
    return [*cells, *([paper, theirs] if printed else [])]


def lines_below(table: Table) -> list[tuple[str, str]]:
    """What a reader has to know of the table, each with the word before it."""
    paper = []
    if table.source:
        setting = f", the published setting {table.setting}" if table.setting else ""
        brackets = any(row.paper is not None and not row.target for row in table.rows)
        paper = [("paper", f"{table.source}{setting}" + ("; in brackets: nothing to compare with" if brackets else ""))]
    grouped = ", ".join(f"{count} by {name}" for name, count in table.groups.items())
    return [
        ("samples", f"{table.samples} of {table.split}, {table.dataset}" + (f"; groups: {grouped}" if grouped else "")),
        *paper,
        *(("warning", sentence) for sentence in table.warnings),
        *(("differs", sentence) for sentence in table.differs),
        *(("note", sentence) for sentence in table.notes),
    ]


def text_lines(table: Table, align: Callable[[Sequence[str], Sequence[Sequence[object]]], list[str]]) -> list[str]:
    """For a terminal; ``align`` makes columns."""
    title = [table.title, ""] if table.title else []
    below = [f"{word:<10} {sentence}" for word, sentence in lines_below(table)]
    return [*title, *align(*table_cells(table)), "", *below]


def markdown_lines(table: Table) -> list[str]:
    """A Markdown table, and a list below it."""
    header, rows = table_cells(table)
    body = [[("-" if cell is None else _escaped(cell)) for cell in row] for row in rows]
    title = [f"**{_escaped(table.title)}**", ""] if table.title else []
    marks = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (list(map(_escaped, header)), marks, *body)]
    return [*title, *lines, "", *(f"- {word}: {_escaped(sentence)}" for word, sentence in lines_below(table))]


def csv_lines(tables: Sequence[Table]) -> list[str]:
    """Numbers of all tables, a line a row; what is below them is left out."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for table in tables:
        for row in table.rows:
            one = row.difference
            interval = one.interval if one else None
            about = (table.title, table.dataset, table.split, table.metric, row.name, len(row.scores), row.failed)
            ours = (row.mean, row.std, table.base, one.mean if one else None)
            bounds = (interval.low, interval.high) if interval else (None, None)
            paper = (row.paper, None if row.paper is None else row.target, row.paper_difference)
            writer.writerow((*about, *ours, *bounds, *paper))
    return text.getvalue().splitlines()


def _escaped(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("\n", " ")
