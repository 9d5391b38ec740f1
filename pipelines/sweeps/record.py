"""``sweep.json`` in a sweep's folder: the file that its runs were made by, for the table of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mettle_cache.errors import ConfigError, RunError
from mettle_cache.pipelines.sweeps.sweep_file import Sweep, parse_sweep
from mettle_cache.store.format.files import open_regular
from mettle_cache.store.writing.durable import make_folder, write_file

RECORD = "sweep.json"
FORMAT = "mettle-sweep-1"
_MAX_BYTES = 1 << 18


def read_record(folder: Path) -> Sweep | None:
    """The sweep whose runs a folder holds; None where it holds none of a file's.

    Raises
    ------
    RunError
        The record is damaged.
    """
    place = folder / RECORD
    if not os.path.lexists(place):
        return None
    try:
        with os.fdopen(open_regular(place, follow_links=True), "rb") as file:
            table: dict[str, Any] = json.loads(file.read(_MAX_BYTES))
        if table["format"] != FORMAT:
            raise ValueError(f"its format is {table['format']}")
        return parse_sweep(str(table["name"]), str(table["text"]), where=str(place))
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{place}: not a sweep's record that this version reads ({reason})",
            hint="delete the file: the runs stay, and their table is one without the paper's column",
        ) from error


def check_record(folder: Path, sweep: Sweep) -> None:
    """Make sure that a folder holds no other sweep. Raises RunError where it does."""
    there = read_record(folder)
    if there is not None and there.name != sweep.name:
        raise RunError(f"{folder}: this folder holds the sweep {there.name}", hint="choose another folder with --out")


def write_record(folder: Path, sweep: Sweep) -> None:
    """Keep the sweep's file in the folder; raises StoreError where the disk refuses."""
    make_folder(folder)
    table = {"format": FORMAT, "name": sweep.name, "text": sweep.text}
    write_file(folder / RECORD, (json.dumps(table, indent=2) + "\n").encode())
