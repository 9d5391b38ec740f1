"""``log.txt``: what a command said and met, with the times, beside what it made.

A line is a time (UTC), a word that says what kind of line it is, and a text: ``2026-01-31T12:00:00Z note  ...``. Each
is written at once and in one piece, so that a killed process leaves whole lines. The next process goes on below them.
Nothing reads it back, and no record lists it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mettle_cache.pipelines.report.text import printable

LOG = "log.txt"
# read as well, to see how the last process left it; a link, a pipe or a device in its place is refused, not followed
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LogFile:
    """Appends lines to a file. What the disk refuses is told to ``troubled`` once, and ends the log, not the work."""

    def __init__(self, path: Path, troubled: Callable[[str], None]) -> None:
        self.path = path
        self._troubled = troubled
        self._descriptor: int | None = None
        try:
            self._descriptor = _open(path)
        except OSError as error:
            self._give_up(error)

    def write(self, kind: str, text: str, *, at: datetime | None = None) -> None:
        """Add a line; ``at`` is when it happened, by default now. Further lines of ``text`` are indented."""
        if self._descriptor is None:
            return
        time = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{time} {kind:<9} {printable(text)}\n".encode()
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """End the log; harmless where it has ended."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._troubled(f"{self.path} cannot be written ({error.strerror}): the work goes on without its log")


def _open(path: Path) -> int:
    descriptor = os.open(path, _FLAGS, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
            # a full disk cut the last line off
            os.write(descriptor, b"\n")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
