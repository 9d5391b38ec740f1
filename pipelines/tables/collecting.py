"""From folders that a user names to tables: one for each sweep's, one for all other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mettle_cache.errors import RunError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.compare.groups import Groups
from mettle_cache.pipelines.sweeps.record import RECORD, read_record
from mettle_cache.pipelines.sweeps.sweep_file import Sweep
from mettle_cache.pipelines.tables.scored_runs import read_scored_runs
from mettle_cache.pipelines.tables.table import Table, make_table
from mettle_cache.pipelines.train.run_folder import find_runs


def collect_tables(
    folders: Sequence[Path], *, split: str = "test", base: str | None = None, groups: Groups | None = None
) -> list[Table]:
    """The tables of evaluated runs. Options are those of :func:`~mettle_cache.pipelines.tables.table.make_table`.

    Raises
    ------
    RunError
        There is no run in a folder, one is damaged or not evaluated, or a sweep's record is damaged.
    UsageError, DatasetError
        As ``make_table``.
    """
    tables = []
    for sweep, paths in group_folders(folders):
        runs = read_scored_runs(paths, split)
        table = make_table(runs, split=split, sweep=sweep, base=base, groups=groups)
        if sweep is None:
            below = [one for folder in dict.fromkeys(folders) for one in _sweeps_below(folder)]
            named = [f"{one} is a sweep, whose own table is: {command_line('mettle report', one)}" for one in below]
            table = replace(table, notes=[*table.notes, *named])
        tables.append(table)
    return tables


def group_folders(folders: Sequence[Path]) -> list[tuple[Sweep | None, list[Path]]]:
    """The runs of each sweep's folder, and last, without a sweep, all others. Raises RunError as ``collect_tables``."""
    groups: list[tuple[Sweep | None, list[Path]]] = []
    others: list[Path] = []
    for folder in dict.fromkeys(folders):
        sweep = read_record(folder)
        if sweep is None:
            others += _runs_beside(folder, _sweeps_below(folder))
        else:
            groups.append((sweep, find_runs(folder)))
    return [*groups, (None, list(dict.fromkeys(others)))] if others else groups


def _sweeps_below(folder: Path) -> list[Path]:
    return [record.parent for record in sorted(folder.glob(f"*/{RECORD}"))]


def _runs_beside(folder: Path, sweeps: Sequence[Path]) -> list[Path]:
    """The runs in a folder that is above ``sweeps``, whose own runs lie deeper. Raises RunError where there is none."""
    try:
        return find_runs(folder)
    except RunError as error:
        if not sweeps:
            raise
        raise RunError(
            f"{folder}: there is no run here, but there are sweeps below it: {', '.join(map(str, sweeps))}",
            hint=command_line("mettle report", *sweeps),
        ) from error
