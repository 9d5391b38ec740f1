"""``mettle datasets``"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import broken_lines, hanging_lines, page_width, table_lines

if TYPE_CHECKING:
    from mettle_cache.datasets import DatasetInfo
    from mettle_cache.registry import DatasetRow

EPILOG = """Examples:

\b
mettle datasets
mettle datasets --json
"""


def register(app: typer.Typer) -> None:
    app.command("datasets", epilog=EPILOG)(datasets)


def datasets(json: Json = False, debug: Debug = False) -> None:
    """List the data sets, where each is looked for, and the layouts that are read."""
    from mettle_cache.datasets import DATASETS, list_datasets

    infos, broken = list_datasets()
    width = page_width()
    header = ("name", "segments", "looked for in", "there is", "what it is")
    rows = [(i.name, i.segments, i.default_root, _what_is_at(i.default_root), i.title) for i in infos]
    emit(
        {"datasets": [_to_json(DATASETS.row(info.name), info) for info in infos], "broken": broken},
        [
            *table_lines(header, rows, width=width),
            *(line for info in infos for line in ("", *_layout_lines(info, width))),
            *broken_lines(broken),
        ],
    )


def _layout_lines(info: DatasetInfo, width: int) -> Iterator[str]:
    """What its folder may hold, and the choices that it offers."""
    yield f"{info.name}: the folder holds" + (" one of" if len(info.layouts) > 1 else "")
    for layout in info.layouts:
        yield from hanging_lines("  ", layout, width)
    for option in info.options:
        choice = f"--option {option.name}={option.values}  (default {option.default}) "
        yield from hanging_lines("  ", choice + option.help, width)


def _what_is_at(root: Path) -> str:
    """Nothing, an empty folder, or something; ``mettle doctor`` reads it."""
    if not root.exists():
        return "nothing"
    return "an empty folder" if root.is_dir() and not any(root.iterdir()) else "something"


def _to_json(row: DatasetRow, info: DatasetInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "title": info.title,
        "task": row.task,
        "segments": info.segments,
        "default_root": info.default_root,
        "there": _what_is_at(info.default_root),
        "layouts": info.layouts,
        "layers": row.layers,
        "profile": asdict(info.preprocessing),  # the name that the document has always had
        "options": [asdict(option) for option in info.options],
    }
