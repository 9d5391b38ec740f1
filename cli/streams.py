"""stdout and stderr as a command finds them: closed, a pipe that nobody reads any more, a full disk, another encoding.

None of these ends the work. What can no longer be written is dropped, and the exit code says so where a result is lost.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


class EnduringStream:
    """A text stream that drops what it cannot write, and remembers the first reason as ``lost``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, write: Callable[[], object]) -> None:
        if self.lost is not None:
            return
        try:
            write()
        except OSError as error:
            self.lost = error
            # what is still in the buffers is flushed at the interpreter's end, and would fail there once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def guard_streams() -> None:
    """Make stdin, stdout and stderr usable whatever they were inherited as; for a process that serves one command."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # else the next file that is opened, one of a store perhaps, is what libraries take for stdout or stderr
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115 - open to the process's end
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, EnduringStream(stream))


def lost_result() -> OSError | None:
    """Why stdout could not be written, unless its reader simply had enough of it."""
    lost = getattr(sys.stdout, "lost", None)
    return None if lost is None or lost.errno == errno.EPIPE else lost
