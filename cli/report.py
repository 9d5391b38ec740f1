"""``mettle report``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.options import Debug, Device, Json, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.errors import UsageError

if TYPE_CHECKING:
    from mettle_cache.pipelines.page.build import PageReport
    from mettle_cache.pipelines.tables.table import Table

EPILOG = """Examples:

\b
mettle report runs/ave-swinv2_l-shared-table9
mettle report runs/ave-swinv2_l-shared-table9 --groups groups.csv \\
    --format markdown
mettle report runs/lcd runs/linear --base runs/lcd --split val --json
mettle report runs/k1 runs/k4 --out report.html --root data/AVE
mettle report runs/k1 runs/k4 --figures figures
mettle report runs/k1 runs/k4 --figures figures \\
    --only loss-landscape,timelines --grid 41
"""
TABLE, DRAWN = "The table", "A page and figures"
OUT = "Write one HTML page, which opens anywhere, instead of a table unless --table is given."
FIGURES = "Draw figures of the runs into this folder, as PNG and SVG, instead of a table unless --table is given."
ONLY = "Of the figures these kinds only; docs/figures.md lists them. By default all that the runs give."
GROUPS = path_option(
    text="CSV of clips that are not independent: clip, and a column for each thing that they share.",
    metavar="FILE",
    panel=TABLE,
)
BASE = typer.Option(
    metavar="ROW",
    help="The row that others are compared with; by default the sweep's, or the first.",
    rich_help_panel=TABLE,
)
SPLIT = typer.Option(
    help="The split whose scores are shown.",
    rich_help_panel=TABLE,
    autocompletion=completion.one_of("train", "val", "test"),
)
FORM = typer.Option(
    "--format",
    metavar="text|markdown|csv",
    help="How to write the table.",
    rich_help_panel=TABLE,
    autocompletion=completion.one_of("text", "markdown", "csv"),
)

WITH_TABLE = typer.Option("--table", help="Show the table too.", rich_help_panel=DRAWN)
GRID = typer.Option(help="Losses along each side of a loss landscape; odd.", rich_help_panel=DRAWN)
STORE = path_option(text="The runs' store, where it has moved.", metavar="STORE", panel=DRAWN)


def register(app: typer.Typer) -> None:
    app.command("report", epilog=EPILOG)(report)


def report(
    runs: Annotated[list[Path], path_argument("Folders of evaluated runs, or of several runs each.", metavar="RUN")],
    base: Annotated[str | None, BASE] = None,
    groups: Annotated[Path | None, GROUPS] = None,
    split: Annotated[str, SPLIT] = "test",
    form: Annotated[str, FORM] = "text",
    out: Annotated[Path | None, path_option(text=OUT, metavar="FILE.html", panel=DRAWN)] = None,
    figures: Annotated[Path | None, path_option(text=FIGURES, metavar="DIR", panel=DRAWN)] = None,
    table: Annotated[bool, WITH_TABLE] = False,
    only: Annotated[str | None, typer.Option(metavar="KIND,KIND...", help=ONLY, rich_help_panel=DRAWN)] = None,
    grid: Annotated[int, GRID] = 21,
    store: Annotated[Path | None, STORE] = None,
    root: Annotated[Path | None, path_option(text="The data set, for frames.", panel=DRAWN)] = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show evaluated runs as a table: means over seeds, differences from one row, and the paper's numbers beside.

    Differences are paired by seed and by sample; their interval is over both, or over groups of clips that share
    something, the widest of them. One seed has none. Folders of a sweep file have a table each; runs without one are a
    table together. With --out write a page of the runs: scores beside the paper's, mistakes with pictures, curves and
    cost. With --figures draw them. Both take what each run's folder and store give, evaluated or not.
    """
    if only is not None and figures is None:
        raise UsageError("--only chooses figures, and none are asked for", hint="add --figures DIR")
    tables = _collect(runs, split, base, groups, form) if table or (figures is None and out is None) else []
    page = None if out is None else _write(runs, out, split, base, groups, store=store, root=root)
    written = []
    if figures is not None:
        written = _draw(runs, figures, split, only, grid, store=store, root=root, device=device)
    shown = {"tables": [one.to_json() for one in tables]} if tables else {}
    drawn = {"figures": [str(path) for path in written]} if figures is not None else {}
    told = page.to_json() if page else {}
    lines = [*(report_lines(tables, form) if tables else []), *(page_lines(page) if page else []), *map(str, written)]
    emit({**shown, **told, **drawn}, lines)


def _collect(runs: list[Path], split: str, base: str | None, groups: Path | None, form: str) -> list[Table]:
    from mettle_cache.pipelines.compare.groups import read_groups
    from mettle_cache.pipelines.tables.writing import FORMATS

    if form not in FORMATS:
        raise UsageError(f"--format {form}: choose one of {', '.join(FORMATS)}", hint="--json prints one document")
    clips = None if groups is None else read_groups(groups)

    from mettle_cache.pipelines.tables.collecting import collect_tables

    return collect_tables(runs, split=split, base=base, groups=clips)


def _write(
    runs: list[Path],
    out: Path,
    split: str,
    base: str | None,
    groups: Path | None,
    *,
    store: Path | None,
    root: Path | None,
) -> PageReport:
    from mettle_cache.pipelines.compare.groups import read_groups
    from mettle_cache.pipelines.page.build import write_page
    from mettle_cache.pipelines.page.options import PageOptions
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.progress import terminal_progress

    if store is not None:
        require_store(store)
    if root is not None and not root.is_dir():
        raise UsageError(f"--root {root}: there is no such folder", hint="name the data set's folder, or leave it out")
    clips = None if groups is None else read_groups(groups)
    options = PageOptions(split=split, groups=clips, store=store, root=root, out=out)
    return write_page(runs, options, terminal_progress(), base=base)


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


def page_lines(page: PageReport) -> list[str]:
    """Where the page is, and what it lacks."""
    from mettle_cache.pipelines.report.units import format_bytes

    return [f"page       {page.path}, {format_bytes(page.nbytes)}", *(f"lacks      {line}" for line in page.lacks)]


def report_lines(tables: Sequence[Table], form: str) -> list[str]:
    """All tables in one of the formats, with an empty line between two."""
    from mettle_cache.pipelines.tables.writing import csv_lines, markdown_lines, text_lines

    if form == "csv":
        return csv_lines(tables)
    parts = [markdown_lines(one) if form == "markdown" else text_lines(one, table_lines) for one in tables]
    return [line for part in parts for line in ("", *part)][1:]
