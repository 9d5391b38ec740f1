"""``mettle report``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Device, Json, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines

if TYPE_CHECKING:
    from mettle_cache.pipelines.tables.table import Table, TableRow

EPILOG = """Examples:

\b
mettle report runs/ave-swinv2_l-htsat-ave-swin-htsat-sweep
mettle report runs/ave-swinv2_l-htsat-ave-swin-htsat-sweep --split val --json
mettle report runs/k1 runs/k4 --figures figures
mettle report runs/k1 runs/k4 --figures figures --only loss-landscape,timelines --grid 41
"""
FIGURES = "Draw figures of the runs into this folder, as PNG and SVG, instead of showing their scores."
ONLY = "Of the figures these kinds only; docs/figures.md lists them. By default all that the runs give."


def register(app: typer.Typer) -> None:
    app.command("report", epilog=EPILOG)(report)


def report(
    runs: Annotated[list[Path], path_argument("Folders of evaluated runs, or of several runs each.", metavar="RUN")],
    split: Annotated[str, typer.Option(help="The split whose scores are shown.")] = "test",
    figures: Annotated[Path | None, path_option(text=FIGURES, metavar="DIR")] = None,
    only: Annotated[str | None, typer.Option(metavar="KIND,KIND...", help=ONLY)] = None,
    grid: Annotated[int, typer.Option(help="Losses along each side of a loss landscape; odd.")] = 21,
    store: Annotated[Path | None, path_option(text="The runs' store, where it has moved.", metavar="STORE")] = None,
    root: Annotated[Path | None, path_option(text="The data set, for frames in figures.", metavar="FOLDER")] = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the scores of evaluated runs: mean and standard deviation over the seeds of each variant.

    With --figures draw them: what each run's folder and store give, evaluated or not.
    """
    if figures is not None:
        written = _draw(runs, figures, split, only, grid, store=store, root=root, device=device)
        emit({"figures": [str(path) for path in written]}, map(str, written))
        return

    from mettle_cache.pipelines.tables.scored_runs import read_scored_runs
    from mettle_cache.pipelines.tables.table import make_table
    from mettle_cache.pipelines.train.run_folder import find_runs

    folders = [run for folder in runs for run in find_runs(folder)]
    table = make_table(read_scored_runs(folders, split), title="", split=split)
    emit({"tables": [table.to_json()]}, report_lines(table))


def _draw(
    runs: list[Path],
    folder: Path,
    split: str,
    only: str | None,
    grid: int,
    *,
    store: Path | None,
    root: Path | None,
    device: str | None,
) -> list[Path]:
    from mettle_cache.devices import check_device_name
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.train.run_folder import find_runs

    # before PyTorch and matplotlib load, which takes seconds
    check_device_name(device)
    for run in runs:
        find_runs(run)
    if store is not None:
        require_store(store)

    from mettle_cache.pipelines.figures.compute.loss_landscape import LandscapeOptions
    from mettle_cache.pipelines.figures.draw import draw_figures
    from mettle_cache.pipelines.figures.kinds import FigureOptions
    from mettle_cache.pipelines.progress import terminal_progress

    kinds = tuple(name.strip() for name in (only or "").split(",") if name.strip())
    options = FigureOptions(split=split, only=kinds, landscape=LandscapeOptions(grid=grid))
    return draw_figures(runs, folder, terminal_progress(), options, store=store, root=root, device=device)


def report_lines(table: Table) -> list[str]:
    """The table as text."""
    return table_lines(("row", "seeds", f"{table.split} {table.metric}"), [_cells(row) for row in table.rows])


def _cells(row: TableRow) -> tuple[object, ...]:
    if row.mean is None:
        return row.name, 0, None
    return row.name, len(row.scores), f"{row.mean:.2f}" + ("" if row.std is None else f" ± {row.std:.2f}")
