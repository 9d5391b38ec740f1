"""The loggers of one run together; one that fails is left behind, and the training goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mettle_cache.errors import StoreError
from mettle_cache.pipelines.train.loggers.protocol import LoggedRun, Logger, Picture, Status
from mettle_cache.pipelines.train.loggers.registry import DEFAULT, LOGGERS
from mettle_cache.store.format.files import open_regular
from mettle_cache.store.writing.durable import write_file

MEMORY = "loggers.json"
_LARGEST_MEMORY = 1 << 16


class RunLoggers:
    """Makes the loggers ``names`` for a run; None: those that the run had before, at first :data:`DEFAULT`.

    ``note`` is told, once, of each that fails and why.
    """

    def __init__(self, run: LoggedRun, names: Sequence[str] | None, note: Callable[[str], None]) -> None:
        self._note = note
        self._open: dict[str, Logger] = {}
        known = remembered(run.folder)
        chosen = names if names is not None else tuple(known) or DEFAULT
        for name in chosen:
            try:
                self._open[name] = LOGGERS.load(name)(replace(run, identity=known.get(name, "")))
            except Exception as error:  # noqa: BLE001 - somebody else's service may fail in any way
                self._leave(name, error)
        if names is not None or known:
            self._remember(run.folder, {name: known.get(name, "") for name in chosen})

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        self._each(lambda logger: logger.scalars(values, step=step))

    def images(self, pictures: Mapping[str, Picture], *, step: int) -> None:
        self._each(lambda logger: logger.images(pictures, step=step))

    def close(self, scores: Mapping[str, float], status: Status) -> None:
        self._each(lambda logger: logger.close(scores, status))
        self._open.clear()

    def __bool__(self) -> bool:
        """Whether any is left to show something to."""
        return bool(self._open)

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                call(logger)
            except Exception as error:  # noqa: BLE001 - a full disk or a lost network must not cost the training
                self._leave(name, error)

    def _leave(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        self._note(f"the logger {name} fails ({reason}): the training goes on without it")

    def _remember(self, folder: Path, known: Mapping[str, str]) -> None:
        """Keep names and identities for the process that resumes the run."""
        table = {name: self._open[name].identity if name in self._open else old for name, old in known.items()}
        try:
            write_file(folder / MEMORY, (json.dumps(table, indent=2) + "\n").encode())
        except StoreError as error:
            self._note(f"{error.message}: a resume has to be told its loggers with --log")


def remembered(folder: Path) -> dict[str, str]:
    """The loggers of a run by their names, with their identities; none where it had only what is the default."""
    try:
        with os.fdopen(open_regular(folder / MEMORY), "rb") as file:
            table = json.loads(file.read(_LARGEST_MEMORY))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        return {}
    return table
