"""From folders that a user names to tables: one for each sweep's, one for all other runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mettle_cache.pipelines.compare.groups import Groups
from mettle_cache.pipelines.sweeps.record import read_record
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
        tables.append(make_table(runs, split=split, sweep=sweep, base=base, groups=groups))
    return tables


def group_folders(folders: Sequence[Path]) -> list[tuple[Sweep | None, list[Path]]]:
    """The runs of each sweep's folder, and last, without a sweep, all others. Raises RunError as ``collect_tables``."""
    groups: list[tuple[Sweep | None, list[Path]]] = []
    others: list[Path] = []
    for folder in dict.fromkeys(folders):
        sweep = read_record(folder)
        if sweep is None:
            others += find_runs(folder)
        else:
            groups.append((sweep, find_runs(folder)))
    return [*groups, (None, list(dict.fromkeys(others)))] if others else groups
