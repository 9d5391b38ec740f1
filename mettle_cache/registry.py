"""Names to what stands behind them: the rows of this package, and those that other packages bring as entry points.

A row is data. Nothing but its own few words is loaded until somebody uses it, so that listing what there is stays
light, and stage one never meets a method nor stage two a backbone. Another package registers a row with an entry point
of the kind's group whose object is the row::

    [project.entry-points."mettle_cache.datasets"]
    birds = "birds.rows:DATASET"        # DATASET = DatasetRow("birds", "birds.dataset:BIRDS", task="avel")

The module that holds rows should import nothing but this one. docs/extending.md shows a whole package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from mettle_cache.errors import PluginError, UsageError


@dataclass(frozen=True)
class Row:
    """A name, and where the object behind it is: ``package.module:attribute``."""

    name: str
    target: str

    def load(self) -> Any:
        """Import the module and give the object.

        Raises
        ------
        PluginError
            The module cannot be imported, or has no such attribute.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except MemoryError:
            raise
        except Exception as error:  # a foreign module may fail in any way, and the command must say whose it is
            raise PluginError(
                f"'{self.name}' stands for {self.target}, which cannot be loaded: {type(error).__name__}: {error}",
                hint=f"repair or uninstall the package that provides {module.partition('.')[0]}",
            ) from error


@dataclass(frozen=True)
class DatasetRow(Row):
    """A data set. Its object is a :class:`mettle_cache.datasets.protocol.DatasetInfo`.

    ``task`` is what a head learns from it, None for a data set that is only extracted. ``layers`` is the selection that
    is stored by default. ``recipe`` is what a store of it is trained by where that is not its task's. ``dense`` is the
    selection that heads read token by token, such as those of segmentation: codecs with cells encode these layers in
    squares of tokens.
    """

    task: str | None = None
    layers: str = "all"
    recipe: str = ""
    dense: str = ""


@dataclass(frozen=True)
class BackboneRow(Row):
    """A family of frozen backbones. Its object is a :class:`mettle_cache.backbones.protocol.Family`."""


@dataclass(frozen=True)
class MethodRow(Row):
    """A way from tokens to meta-tokens. Its object is a :class:`mettle_cache.methods.protocol.MethodKind`.

    ``summary`` says in one line what it does, ``source`` where it is described; ``mettle methods`` shows both.
    """

    summary: str = ""
    source: str = ""


@dataclass(frozen=True)
class CodecRow(Row):
    """A way from tokens to bytes. Its object is a :class:`mettle_cache.store.format.codecs.Codec`."""


@dataclass(frozen=True)
class DecoderRow(Row):
    """A task's decoder. Its object makes an ``nn.Module``: see :mod:`mettle_cache.decoders.registry`.

    ``takes`` are the keyword arguments that it wants, of those that the ``task`` offers.
    """

    task: str = ""
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskRow(Row):
    """A task. Its object is a :class:`mettle_cache.tasks.protocol.Task`.

    ``recipe`` is what a store is trained by where no published row fits it: a built-in recipe's name, or
    ``package:file.toml`` for a recipe that a package brings.
    """

    recipe: str = ""


@dataclass(frozen=True)
class LoggerRow(Row):
    """Where a training's numbers go. Its object is a ``mettle_cache.pipelines.train.loggers.protocol.LoggerKind``.

    ``package`` is what must be importable for it, ``extra`` the optional dependency of this package that brings it.
    """

    package: str = ""
    extra: str = ""


RowT = TypeVar("RowT", bound=Row)


class Registry(Generic[RowT]):
    """The rows of one kind.

    Parameters
    ----------
    kind
        What a row is, for messages: ``data set``.
    group
        The entry points' group: ``mettle_cache.datasets``.
    row_type, rows
        The type of every row, and those of this package.
    """

    def __init__(self, kind: str, group: str, row_type: type[RowT], rows: Sequence[RowT]) -> None:
        self.kind = kind
        self.group = group
        self._row_type = row_type
        self._rows = {row.name: row for row in rows}
        self._broken: dict[str, str] = {}
        self._discovered = False

    def register(self, row: RowT) -> RowT:
        """Add a row by hand, for this process only: in a notebook or a test.

        Raises
        ------
        ValueError
            The name is taken.
        """
        self._discover()
        if row.name in self._rows:
            raise ValueError(f"a {self.kind} named '{row.name}' is registered already: {self._rows[row.name].target}")
        self._rows[row.name] = row
        return row

    def unregister(self, name: str) -> None:
        """Take back what :meth:`register` added."""
        del self._rows[name]

    def names(self) -> list[str]:
        """Every name, those of this package first."""
        self._discover()
        return list(self._rows)

    def __iter__(self) -> Iterator[RowT]:
        self._discover()
        return iter(tuple(self._rows.values()))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._rows

    @property
    def broken(self) -> dict[str, str]:
        """Entry points that are of no use, by name, with the reason: commands that list the kind show them."""
        self._discover()
        return dict(self._broken)

    def row(self, name: str) -> RowT:
        """The row of that name.

        Raises
        ------
        UsageError
            There is none; the message lists those that there are.
        PluginError
            An installed package claims the name, but its row cannot be used.
        """
        self._discover()
        if name in self._rows:
            return self._rows[name]
        if name in self._broken:
            raise PluginError(f"the {self.kind} '{name}' comes from a broken plug-in: {self._broken[name]}")
        near = difflib.get_close_matches(name, self._rows, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"no {self.kind} is called '{name}'",
            hint=f"{guess}use one of {', '.join(self._rows) or '(none installed)'}",
        )

    def load(self, name: str) -> Any:
        """The object behind a name. Raises as :meth:`row` and :meth:`Row.load` do."""
        return self.row(name).load()

    def _discover(self) -> None:
        """Read the entry points once a process; a broken one is kept as a line, never raised."""
        if self._discovered:
            return
        self._discovered = True
        for point in entry_points(group=self.group):
            problem = self._add(point)
            if problem:
                package = point.dist.name if point.dist else "an installed package"
                self._broken[point.name] = f"{package}, entry point {point.value}: {problem}"

    def _add(self, point: EntryPoint) -> str | None:
        """Add an entry point's row, or say what is wrong with it."""
        try:
            row = point.load()
        except Exception as error:  # noqa: BLE001 - another package's import may fail in any way
            return f"{type(error).__name__}: {error}"
        if not isinstance(row, self._row_type):
            return f"is no {self._row_type.__name__} but a {type(row).__name__}"
        if row.name != point.name:
            return f"its row is called '{row.name}'"
        if row.name in self._rows:
            return f"the name is taken by {self._rows[row.name].target}"
        self._rows[row.name] = row
        return None
