"""``mettle datasets``"""

from __future__ import annotations

from dataclasses import asdict

import typer

from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines

EPILOG = """Examples:

mettle datasets

mettle datasets --json
"""


def register(app: typer.Typer) -> None:
    app.command("datasets", epilog=EPILOG)(datasets)


def datasets(json: Json = False, debug: Debug = False) -> None:
    """List the data sets, where each is looked for, and the layouts that are read."""
    from mettle_cache.datasets import list_datasets

    infos = list_datasets()
    header = ("name", "title", "segments", "default root", "layouts")
    rows = [(i.name, i.title, i.segments, i.default_root, "; ".join(i.layouts)) for i in infos]
    offered = [
        f"{i.name:<10} --option {o.name}={'|'.join(o.choices)}  (default {o.default}) {o.help}"
        for i in infos
        for o in i.options
    ]
    emit({"datasets": [asdict(info) for info in infos]}, [*table_lines(header, rows), *offered])
