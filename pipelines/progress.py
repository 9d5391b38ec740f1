"""How long work tells where it stands: a bar on a terminal, a line every few seconds anywhere else, or nothing.

Everything goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.report.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID

LINE_EVERY_SECONDS = 5.0
NARROW = 90
"""A terminal with fewer columns has a short bar, and beside it only what is needed most."""
# what a short bar, its counts and its rate take
_BESIDE = 44
RECENT_SECONDS, RECENT_REPORTS = 60.0, 20


@dataclass
class Verbosity:
    """What ``--quiet`` and ``--verbose`` ask of the command that this process runs."""

    quiet: bool = False
    verbose: bool = False


VERBOSITY = Verbosity()


class Progress(Protocol):
    """What long work reports to. One bar at a time; calls come from one thread."""

    def start(self, total: int, unit: str, what: str) -> None:
        """Begin ``what``: ``total`` items, each a ``unit`` (for example ``clips``)."""

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None:
        """Report ``n`` more items done, ``nbytes`` written or read with them."""

    def note(self, text: str) -> None:
        """Say one human line, warnings included."""

    def finish(self) -> None:
        """End what ``start`` began; harmless when nothing was begun."""


class Silent:
    """Reports nothing: the default of every pipeline."""

    def start(self, total: int, unit: str, what: str) -> None: ...

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


class Meter:
    """Counts items and bytes and derives rate and time left, for every kind of display.

    Both come from what was done lately: the last minute, or the last :data:`RECENT_REPORTS` reports where these took
    longer. A slow start is forgotten then, and a slow end is seen.
    """

    def __init__(self, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.unit = total, unit
        self.done = self.nbytes = 0
        self._clock = clock
        self._started = clock()
        # when how many were done: one mark a second at most, the oldest first
        self._marks = deque([(self._started, 0)])

    def add(self, n: int, nbytes: int) -> None:
        now = self._clock()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self.done + n))
        while len(self._marks) > RECENT_REPORTS and now - self._marks[1][0] >= RECENT_SECONDS:
            self._marks.popleft()
        self.done += n
        self.nbytes += nbytes

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._started

    @property
    def rate(self) -> float:
        """Items a second, lately; 0 before the first one."""
        since, done_before = self._marks[0]
        elapsed = self._clock() - since
        return (self.done - done_before) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Infinite before the first item is done."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")

    def describe(self, *, short: bool = False) -> str:
        """For example ``2.10 clips/s, 113 MB, 8 min 20 s left``, or ``short``: ``2.10/s, 8 min 20 s``."""
        if short:
            return f"{format_rate(self.rate)}/s, {format_seconds(self.seconds_left)}"
        parts = [f"{format_rate(self.rate)} {self.unit}/s"]
        if self.nbytes:
            parts.append(format_bytes(self.nbytes))
        parts.append(f"{format_seconds(self.seconds_left)} left")
        return ", ".join(parts)


class PlainProgress:
    """One line every few seconds, for logs and pipes."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = LINE_EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every, self._clock = every, clock
        self._meter: Meter | None = None
        self._what = ""
        self._next_line = 0.0

    def start(self, total: int, unit: str, what: str) -> None:
        self._meter, self._what = Meter(total, unit, self._clock), what
        self._next_line = self._clock() + self._every
        self.note(f"{what}: {_counted(total, unit)}")

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None:
        if self._meter is None:
            return
        self._meter.add(n, nbytes)
        if self._clock() >= self._next_line:
            self._next_line = self._clock() + self._every
            self.note(f"{self._what}: {self._meter.done}/{self._meter.total} {self._meter.describe()}")

    def note(self, text: str) -> None:
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    def finish(self) -> None:
        if self._meter is not None:
            meter, self._meter = self._meter, None
            size = f", {format_bytes(meter.nbytes)}" if meter.nbytes else ""
            self.note(f"{self._what}: {_counted(meter.done, meter.unit)} in {format_seconds(meter.seconds)}{size}")


_SHOWN: list[RichProgress] = []
"""The bars that are on the terminal now."""


class RichProgress:
    """A bar with rate, bytes and time left, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        # the stream that is stderr now, which a command has made to outlive its terminal
        self._console = Console(file=sys.stderr)
        self._bar: RichBar | None = None
        self._task: TaskID | None = None
        self._meter: Meter | None = None
        self._narrow = False

    def start(self, total: int, unit: str, what: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.finish()
        self._narrow = self._console.width < NARROW
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10 if self._narrow else 30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
        )
        self._meter = Meter(total, unit)
        self._bar = Bar(*columns, console=self._console)
        self._bar.start()
        _SHOWN.append(self)
        shown = printable(what)
        room = max(8, self._console.width - _BESIDE)
        if self._narrow and len(shown) > room:
            shown = f"{shown[: room - 1]}…"
        self._task = self._bar.add_task(shown, total=total, rate="")

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None:
        if self._bar is None or self._task is None or self._meter is None:
            return
        self._meter.add(n, nbytes)
        self._bar.update(self._task, advance=n, rate=self._meter.describe(short=self._narrow))

    def note(self, text: str) -> None:
        self._console.print(printable(text), emoji=False, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            _SHOWN.remove(self)
        self._bar = self._task = self._meter = None


def stop_bars() -> None:
    """End the bars that are shown, whatever became of their work, and give the terminal its cursor back."""
    for bar in list(_SHOWN):
        bar.finish()


def _counted(number: int, units: str) -> str:
    return f"{number} {units.removesuffix('s') if number == 1 else units}"


def detail(progress: Progress, text: str) -> None:
    """A note that only ``--verbose`` asks for."""
    if VERBOSITY.verbose:
        progress.note(text)


def terminal_progress() -> Progress:
    """A bar when stderr is a terminal, plain lines otherwise; nothing with ``--quiet``."""
    if VERBOSITY.quiet:
        return Silent()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
