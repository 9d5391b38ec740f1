"""BENCHMARKS.md from the results of benches; no figure in it is written by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.registry import BENCHES, run_bench
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, parse_table
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_rate
from mettle_cache.pipelines.timing import LEAST_REPEATS
from mettle_cache.store.writing.durable import write_atomically

REPORT = Path("BENCHMARKS.md")
# a table is a few kilobytes
LARGEST_RESULT = 4 << 20
HEAD = """# Benchmarks

Written by `mettle bench --report`; no figure here is by hand. Every ratio is to a denominator that was measured in the
same run, with the variants taking turns. A figure is the median of the repeats, the least and the most beside it.
"""


def run_all(options: BenchOptions, progress: Progress) -> list[BenchTable]:
    """Every bench, one after the other."""
    return [run_bench(name, options, progress) for name in BENCHES]


def load_tables(folder: Path) -> list[BenchTable]:
    """The results that ``mettle bench NAME --json`` wrote to ``folder`` as ``*.json``, in the order of the registry.

    Raises
    ------
    UsageError
        A folder without results, a file that is none, two of one bench, or an unknown bench.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise UsageError(
            f"there are no results (*.json) in {folder}",
            hint=f"mettle bench read --json > {shlex.quote(str(folder / 'read.json'))}",
        )
    tables: dict[str, BenchTable] = {}
    for file in files:
        table = parse_table(_read_small(file), str(file))
        if table.bench not in BENCHES or table.bench in tables:
            what = "a second result of" if table.bench in tables else "of an unknown bench,"
            raise UsageError(f"{file} is {what} '{table.bench}'", hint=f"keep one file each of {', '.join(BENCHES)}")
        tables[table.bench] = table
    return [tables[name] for name in BENCHES if name in tables]


def write_report(tables: Sequence[BenchTable], path: Path) -> None:
    """Write BENCHMARKS.md, whole or not at all.

    Raises
    ------
    UsageError
        A result that stands on too few repeats, or on toy shapes.
    """
    for table in tables:
        if table.tiny or table.repeats < LEAST_REPEATS:
            what = "toy shapes" if table.tiny else f"{table.repeats} repeats"
            raise UsageError(
                f"the result of 'bench {table.bench}' is of {what}",
                hint=f"a report wants full shapes and at least {LEAST_REPEATS} repeats",
            )
    text = render_report(tables)
    write_atomically(path, lambda partial: _write_text(partial, text))


def render_report(tables: Sequence[BenchTable]) -> str:
    """The whole document as Markdown."""
    parts = [HEAD]
    for table in tables:
        parts.append("\n".join(_section(table)))
    missing = [f"`mettle bench {name}`" for name in BENCHES if name not in {table.bench for table in tables}]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.\n")
    return "\n".join(parts)


def _section(table: BenchTable) -> Iterator[str]:
    yield f"## {table.bench}: {table.title}"
    yield ""
    yield f"    {table.command}"
    yield ""
    yield from (f"- {topic}: {fact}" for topic, fact in table.machine.items())
    yield f"- repeats: {table.repeats}"
    yield ""
    yield from _markdown(("", "", "least to most", "ratio", "to", ""), map(_cells, (*table.denominators, *table.rows)))
    yield ""
    if table.goals:
        yield from _markdown(("goal", "wanted", "found", "met"), map(_goal_cells, table.goals))
        yield ""
    yield from (f"- {note}" for note in table.notes)
    if table.notes:
        yield ""


def _cells(row: BenchRow) -> tuple[str, ...]:
    if row.value is None:
        return row.variant, "-", "", "", "", row.note
    spread = "" if row.low is None or row.high is None else f"{format_rate(row.low)} to {format_rate(row.high)}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return row.variant, f"{format_rate(row.value)} {row.unit}", spread, ratio, row.denominator or "", row.note


def _goal_cells(goal: Goal) -> tuple[str, ...]:
    sign = "at least" if goal.least else "at most"
    goal_text, measured = (f"{format_rate(value)} {goal.unit}".strip() for value in (goal.wanted, goal.found))
    return goal.what, f"{sign} {goal_text}", measured, "yes" if goal.met else "NO"


def _markdown(header: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def _read_small(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(LARGEST_RESULT + 1)
    if len(data) > LARGEST_RESULT:
        raise UsageError(f"{file} is too large to be the result of a bench")
    return data


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
