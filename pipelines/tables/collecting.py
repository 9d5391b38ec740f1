"""From folders that a user names to tables: one for each sweep's, one for all other runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mettle_cache.pipelines.compare.groups import Groups
from mettle_cache.pipelines.sweeps.record import read_record
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
    tables, others = [], []
    for folder in dict.fromkeys(folders):
        sweep = read_record(folder)
        if sweep is None:
            others += find_runs(folder)
        else:
            runs = read_scored_runs(find_runs(folder), split)
            tables.append(make_table(runs, split=split, sweep=sweep, base=base, groups=groups))
    if others:
        runs = read_scored_runs(list(dict.fromkeys(others)), split)
        tables.append(make_table(runs, split=split, base=base, groups=groups))
    return tables
