"""Sweep files: built-in ones by name, a user's by path.

A file names the rows of a table, each as overrides of a recipe, and what a paper prints for it. The numbers are by
task, or by data set where a task has several published ones: ``avel``, ``avvp``, ``avs-s4``, ``avs-ms3``. Whatever is
wrong with a file is reported in one message.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.options import STRICT, read_options
from mettle_cache.pipelines.train.recipe_file import SWEEP, list_built_in, read_text
from mettle_cache.pipelines.train.spec import folder_name, parse_seeds
from mettle_cache.pipelines.train.toml_text import parse_toml
from mettle_cache.tasks.registry import TASKS

_MOST_ROWS = 200
_MAX_PROBLEMS = 20
T = TypeVar("T")

Words = Annotated[str, Field(min_length=1, max_length=2000)]
Percent = Annotated[float, Field(ge=0, le=100)]
Lines = Annotated[tuple[Words, ...], Field(max_length=50)]


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One row of a table.

    Attributes
    ----------
    overrides
        What it changes in the recipe, each ``key=value``.
    overrides_for
        What stands in their place, by task or data set.
    tasks
        The tasks or data sets that have this row; empty for all that the sweep has.
    paper
        The number that the paper prints for it, by task or data set.
    no_target_for
        The tasks or data sets whose printed number is nothing to compare with: a mistake, or one for other backbones.
    note
        What a reader has to know of this row.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Annotated[str, Field(min_length=1, max_length=100)]
    overrides: Lines = ()
    overrides_for: Mapping[str, Lines] = field(default_factory=dict)
    tasks: Lines = ()
    paper: Mapping[str, Percent] = field(default_factory=dict)
    no_target_for: Lines = ()
    note: str = ""

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return folder_name(self.name)

    def is_for(self, keys: Sequence[str]) -> bool:
        """Whether a store has this row; ``keys`` as :func:`keys_of` gives them."""
        return not self.tasks or bool(set(self.tasks) & set(keys))

    def target(self, keys: Sequence[str]) -> float | None:
        """The paper's number where it is one to compare with."""
        return None if set(self.no_target_for) & set(keys) else find_by_key(self.paper, keys)

    def overrides_on(self, keys: Sequence[str]) -> tuple[str, ...]:
        """What it changes in the recipe of a store."""
        return find_by_key(self.overrides_for, keys) or self.overrides


@dataclass(frozen=True, kw_only=True)
class _Head:
    """All of a file but its rows."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    title: Words
    base: Words
    tasks: Lines
    source: str = ""
    seeds: str = "0-2"
    metrics: Mapping[str, Words] = field(default_factory=dict)
    settings: Mapping[str, Words] = field(default_factory=dict)
    notes: Lines = ()
    notes_for: Mapping[str, Lines] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sweep(_Head):
    """A sweep file.

    Attributes
    ----------
    base
        The row that all others are compared with.
    tasks
        The tasks or data sets that it is for.
    source
        Where its numbers are from.
    seeds
        The seeds of every row, as ``--seeds`` takes them.
    metrics
        The score that the paper's numbers are of, by task; the task's own where none is named.
    settings
        The published setting (``mettle params`` lists them) that the paper's numbers are of, by task or data set.
    notes, notes_for
        What a reader of the table has to know; the latter by task or data set.
    text
        The file itself.
    """

    name: str
    rows: tuple[SweepRow, ...]
    text: str = field(repr=False)

    def row(self, name: str) -> SweepRow:
        return next(row for row in self.rows if row.name == name)

    def rows_for(self, keys: Sequence[str]) -> list[SweepRow]:
        """The rows that a store has. Raises UsageError where there are none: the sweep is for something else."""
        if not set(self.tasks) & set(keys):
            raise UsageError(
                f"the sweep {self.name} is for {', '.join(self.tasks)}, and this store is for {keys[-1]} ({keys[0]})",
                hint="mettle sweep --list names the sweeps of each task",
            )
        return [row for row in self.rows if row.is_for(keys)]


def keys_of(dataset: str, task: str) -> tuple[str, str]:
    """The keys by which a file tells stores apart, the more particular one first."""
    return dataset, task


def find_by_key(table: Mapping[str, T], keys: Sequence[str]) -> T | None:
    """The entry of the first key that has one."""
    return next((table[key] for key in keys if key in table), None)


def list_sweeps() -> list[Sweep]:
    """The built-in sweeps."""
    return [read_sweep(name) for name in list_built_in(SWEEP)]


def read_sweep(name_or_path: str | Path) -> Sweep:
    """A built-in sweep by its name, a file's by its path, or ``package:file.toml`` for one that a package brings.

    Raises
    ------
    UsageError
        There is no such sweep.
    ConfigError
        Everything that is wrong with the file; whether a recipe takes the overrides is not looked at.
    """
    return parse_sweep(*read_text(SWEEP, name_or_path), where=f"sweep {name_or_path}")


def parse_sweep(name: str, text: str, *, where: str) -> Sweep:
    """A sweep from a file's text. Raises ConfigError as :func:`read_sweep`."""
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise ConfigError([f"this is not TOML: {error}"], where=where) from error
    rows, wrong_rows = _read_rows(table.pop("rows", []))
    head, wrong_head = read_options(_Head, table, "")
    problems = [*wrong_head, *wrong_rows]
    if head is not None and not wrong_rows:
        problems += _contradictions(head, rows)
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        listed = [*problems[:_MAX_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])]
        raise ConfigError(listed, where=where, hint="docs/reproduce.md shows a sweep file")
    return Sweep(
        **{item.name: getattr(head, item.name) for item in fields(_Head)}, name=name, rows=tuple(rows), text=text
    )


def _read_rows(tables: Any) -> tuple[list[SweepRow], list[str]]:
    if not isinstance(tables, list) or not 1 <= len(tables) <= _MOST_ROWS:
        return [], [f"rows: there must be 1 to {_MOST_ROWS} tables [[rows]]"]
    rows, problems = [], []
    for number, table in enumerate(tables, start=1):
        row, wrong = read_options(SweepRow, table, f"row {number}: ")
        problems += wrong
        if row is not None:
            rows.append(row)
    return rows, problems


def _contradictions(head: _Head, rows: Sequence[SweepRow]) -> list[str]:
    """What is wrong with parts that are legal each by itself."""
    names, folders = [row.name for row in rows], [row.folder.lower() for row in rows]
    problems = [f"two rows have the name or the folder of '{row.name}'" for row in rows if _twice(row, names, folders)]
    problems += [
        f"the row '{name}' has a comma in its name, which parts names in --rows" for name in names if "," in name
    ]
    if head.base not in names:
        problems.append(f"base = '{head.base}': no row is called so ({', '.join(names)})")
    try:
        parse_seeds(head.seeds)
    except UsageError as error:
        problems.append(error.message.removeprefix("--"))
    problems += _unknown_keys("tasks", head.tasks)
    for name in ("metrics", "settings", "notes_for"):
        problems += _unknown_keys(name, getattr(head, name))
    for number, row in enumerate(rows, start=1):
        for name in ("overrides_for", "tasks", "paper", "no_target_for"):
            problems += _unknown_keys(f"row {number}: {name}", getattr(row, name))
        for override in [*row.overrides, *(one for several in row.overrides_for.values() for one in several)]:
            if "=" not in override:
                problems.append(f"row {number}: '{override}' must be key=value, for example lcd.k_visual=2")
    return problems


def _twice(row: SweepRow, names: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether an earlier row has the same name or folder; file systems may not tell capitals apart."""
    place = next(number for number, folder in enumerate(folders) if folder == row.folder.lower())
    return names.index(row.name) != place or names.count(row.name) > 1


def _unknown_keys(where: str, keys: Mapping[str, object] | Sequence[str]) -> list[str]:
    known = [*TASKS.names(), *(row.name for row in DATASETS if row.task)]
    problems = []
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            guess = f"did you mean {near[0]}?" if near else f"(known: {', '.join(known)})"
            problems.append(f"{where}: no task or data set is called '{key}'; {guess}")
    return problems
