"""A progress whose notes are kept in log files, one for each folder that is worked in."""

from __future__ import annotations

import platform
import shlex
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from mettle_cache.errors import MettleError
from mettle_cache.pipelines.log_file import LogFile
from mettle_cache.pipelines.progress import Progress, Silent, detail
from mettle_cache.pipelines.report.units import format_seconds
from mettle_cache.pipelines.signals import Command

# notes from before the first log is open; more than any command has to say by then
_MOST_EARLIER = 1000


class Logged:
    """Shows what ``shown`` shows. Notes are written to every open log too, those from before it was opened first."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._logs: dict[str, LogFile] = {}
        self._earlier: deque[tuple[datetime, str, str]] = deque(maxlen=_MOST_EARLIER)

    @classmethod
    def over(cls, progress: Progress | None) -> Logged:
        """``progress`` with logs; itself where it has them already."""
        return progress if isinstance(progress, Logged) else cls(progress or Silent())

    def start(self, total: int, unit: str, what: str) -> None:
        self._shown.start(total, unit, what)

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None:
        self._shown.advance(n, nbytes=nbytes)

    def note(self, text: str) -> None:
        self._shown.note(text)
        self.log("note", text)

    def note_of(self, name: str, text: str, *, begin: str = "") -> None:
        """A note about one of several: shown after ``begin`` under its name, kept in its own log only."""
        self._shown.note(f"{begin}{name}: {text}" if name else f"{begin}{text}")
        self.log("note", f"{begin}{text}", of=name)

    def finish(self) -> None:
        self._shown.finish()

    def log(self, kind: str, text: str, *, of: str | None = None) -> None:
        """Write a line to the logs without showing it: to that named ``of``, or to all."""
        if not self._logs:
            self._earlier.append((datetime.now(UTC), kind, text))
        for name, log in self._logs.items():
            if of in (None, name):
                log.write(kind, text)

    @contextmanager
    def kept_in(self, files: Mapping[str, Path], facts: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Keep logs in ``files``, by the names that :meth:`note_of` knows, for the length of the block.

        They begin with what runs and ``facts`` (a word and a text each), and end with the error that leaves the block,
        if one does, and the time that it took.
        """
        began = time.monotonic()
        self._logs = {name: LogFile(path, self._shown.note) for name, path in files.items()}
        for kind, text in [*_describe_process(), *facts]:
            self.log(kind, text)
            detail(self._shown, f"{kind}: {text}")
        for log in self._logs.values():
            for at, kind, text in self._earlier:
                log.write(kind, text, at=at)
        try:
            yield
        except BaseException as error:
            self.log("error", _describe_error(error))
            raise
        finally:
            self.log("end", f"after {format_seconds(time.monotonic() - began)}")
            for log in self._logs.values():
                log.close()
            self._logs = {}


def _describe_process() -> list[tuple[str, str]]:
    words = shlex.join(["mettle", *Command.words]) if Command.words else "a program that uses the library"
    return [
        ("start", words),
        ("version", f"mettle-cache {version('mettle-cache')}, Python {platform.python_version()}"),
    ]


def _describe_error(error: BaseException) -> str:
    if isinstance(error, MettleError):
        return f"{error.message}\nnext: {error.hint}" if error.hint else error.message
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
