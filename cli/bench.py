"""``mettle bench``: one subcommand a bench, and the report over all of them"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli.help_page import App
from mettle_cache.cli.options import Debug, Device, Json, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.benchmark.registry import BENCHES
from mettle_cache.pipelines.report.units import format_rate

if TYPE_CHECKING:
    from mettle_cache.pipelines.benchmark.table import BenchTable, Goal

EPILOG = """Examples:

\b
mettle bench read
mkdir -p results
mettle bench extract --repeats 7 --json > results/extract.json
mettle bench --report --from results
"""
RepeatsOption = Annotated[int, typer.Option(help="How often everything is measured; a report wants at least 5.")]
Clips = Annotated[int | None, typer.Option(help="How many clips to work on.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Toy shapes, in seconds: to try it out.")]
Store = Annotated[
    Path | None, path_option(text="A store in float16 to measure on, instead of tokens of a stated spectrum.")
]
Folder = Annotated[Path | None, path_option(text="Where temporary files go; by default the disk of cache/.")]

Recipe = Annotated[str | None, typer.Option(help="The recipe of a published setting; by default ave-swin-htsat.")]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="A method to measure, or lavish; repeat it for more. By default the paper's."),
]
Batch = Annotated[int | None, typer.Option(help="Samples a training batch; 1 by default, as in the paper's figure.")]
Latency = Annotated[bool, typer.Option("--latency", help="Measure inference alone.")]


def register(app: typer.Typer) -> None:
    group = App()
    group.callback(invoke_without_command=True)(bench)
    for name, bench_info in BENCHES.items():
        examples = f"Examples:\n\n\b\nmettle bench {name}\nmettle bench {name} --tiny --repeats 5 --json\n"
        make = _command_of_setting if bench_info.takes_recipe else _command
        command = _command_with_store(name) if bench_info.takes_store else make(name)
        group.command(name, help=bench_info.what, epilog=examples)(command)
    app.add_typer(group, name="bench", epilog=EPILOG)


def bench(
    context: typer.Context,
    report: Annotated[bool, typer.Option("--report", help="Write BENCHMARKS.md from all of them.")] = False,
    results: Annotated[
        Path | None, path_option("--from", text="Take saved results (*.json) instead of running.")
    ] = None,
    out: Annotated[
        Path | None, path_option(text="Where the report goes; by default BENCHMARKS.md.", metavar="FILE")
    ] = None,
    repeats: RepeatsOption = 5,
    folder: Folder = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure speed and memory here, each beside its physical limit."""
    from mettle_cache.errors import UsageError

    wants_report = report or results is not None or out is not None
    if context.invoked_subcommand is not None:
        if wants_report:
            raise UsageError("--report runs every bench and takes no bench's name", hint="mettle bench --report")
        return
    if not report:
        raise UsageError(
            "name a bench, or ask for all of them",
            hint=f"mettle bench {next(iter(BENCHES))}, or mettle bench --report",
        )
    from mettle_cache.pipelines.benchmark.options import BenchOptions
    from mettle_cache.pipelines.benchmark.report import REPORT, load_tables, run_all, write_report
    from mettle_cache.pipelines.progress import terminal_progress

    path = out or REPORT
    options = BenchOptions(repeats=repeats, folder=folder, device=device)
    tables = run_all(options, terminal_progress()) if results is None else load_tables(results)
    write_report(tables, path)
    emit(
        {"report": str(path), "benches": [table.to_json() for table in tables]},
        [*(line for table in tables for line in (*table_report(table), "")), f"report     {path}"],
    )


def _command(name: str) -> Callable[..., None]:
    def run(
        repeats: RepeatsOption = 5,
        clips: Clips = None,
        tiny: Tiny = False,
        folder: Folder = None,
        device: Device = None,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        _run(name, repeats=repeats, clips=clips, tiny=tiny, folder=folder, device=device)

    return run


def _command_with_store(name: str) -> Callable[..., None]:
    def run(
        repeats: RepeatsOption = 5,
        clips: Clips = None,
        tiny: Tiny = False,
        store: Store = None,
        folder: Folder = None,
        device: Device = None,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        _run(name, repeats=repeats, clips=clips, tiny=tiny, store=store, folder=folder, device=device)

    return run


def _command_of_setting(name: str) -> Callable[..., None]:
    def run(
        recipe: Recipe = None,
        method: Methods = None,
        batch: Batch = None,
        latency: Latency = False,
        repeats: RepeatsOption = 5,
        clips: Clips = None,
        tiny: Tiny = False,
        folder: Folder = None,
        device: Device = None,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        what = {"recipe": recipe, "methods": tuple(method or ()), "batch": batch, "latency": latency}
        _run(name, repeats=repeats, clips=clips, tiny=tiny, folder=folder, device=device, **what)

    return run


def _run(name: str, **options: Any) -> None:
    from mettle_cache.pipelines.benchmark.options import BenchOptions
    from mettle_cache.pipelines.benchmark.registry import run_bench
    from mettle_cache.pipelines.progress import terminal_progress

    table = run_bench(name, BenchOptions(**options), terminal_progress())
    emit(table.to_json(), table_report(table))


def table_report(table: BenchTable) -> list[str]:
    """A bench's table, its goals and its notes as text."""
    header = ("", "median", "unit", "least", "most", "ratio", "to", "note")
    rows = [
        (
            row.variant,
            None if row.value is None else format_rate(row.value),
            row.unit,
            None if row.low is None else format_rate(row.low),
            None if row.high is None else format_rate(row.high),
            None if row.ratio is None else f"{row.ratio:.2f}",
            row.denominator,
            row.note,
        )
        for row in (*table.denominators, *table.rows)
    ]
    notes = [f"note       {note}" for note in table.notes]
    return [f"{table.bench}: {table.title}", "", *table_lines(header, rows), "", *map(_goal_line, table.goals), *notes]


def _goal_line(goal: Goal) -> str:
    limit = f"{'at least' if goal.least else 'at most'} {format_rate(goal.wanted)}"
    state = "met" if goal.met else "NOT met"
    measured = f"{format_rate(goal.found)} {goal.unit}".strip()
    return f"goal       {goal.what}: {measured} ({limit} wanted): {state}"
