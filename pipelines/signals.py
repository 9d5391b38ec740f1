"""What Ctrl-C and SIGTERM do: the first is answered at once and ends the work soon, the second ends the process.

Answers are written past Python's streams: a signal may come while one of them is being written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from mettle_cache.errors import MettleError

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# a bar hides the cursor, and nothing else of this process runs any more that would show it
SHOW_CURSOR = b"\x1b[?25h"
STOPPING = "stopping; once more ends it at once"

Handler = Callable[[int, FrameType | None], None]


class InterruptedRunError(MettleError):
    """The user stopped the work; what is committed stays."""

    exit_code = INTERRUPTED


class Command:
    """The command that this process runs, if it is one: then a second signal ends the process. ``words`` are its own.

    A program that uses the library keeps its own ways: there a second signal is a KeyboardInterrupt.
    """

    running = False
    interrupted = False
    words: tuple[str, ...] = ()


@contextmanager
def command_signals() -> Iterator[None]:
    """For the length of a command: the first signal is answered and raised as KeyboardInterrupt.

    ``Command.interrupted`` is then set, whatever becomes of that exception on its way up: extension modules that are
    being imported turn it into others. Within itself it does nothing.
    """
    if Command.running or not _in_main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if Command.interrupted:
            _end_now()
        Command.interrupted = True
        answer(STOPPING)
        raise KeyboardInterrupt

    hook = sys.unraisablehook
    sys.unraisablehook = _end_or(hook)
    Command.running, Command.interrupted = True, False
    try:
        with _handled(on_signal):
            yield
    finally:
        sys.unraisablehook = hook
        Command.running = False


@contextmanager
def stop_on_signals(what: str = STOPPING) -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; it is answered with ``what``. The second ends the work.

    Outside the main thread, where Python delivers no signals, the event is simply never set.
    """
    stop = threading.Event()
    if not _in_main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            Command.interrupted = True
            answer(what)
        elif Command.running:
            _end_now()
        else:
            raise KeyboardInterrupt

    with _handled(on_signal):
        yield stop


def answer(text: str) -> None:
    """Say one line on stderr, from within a signal's handler."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def end_process(code: int = INTERRUPTED) -> NoReturn:
    """End this process now, whatever its threads do. What it has written is whole or not there, as after any kill."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _end_now() -> NoReturn:
    """As :func:`end_process` from within a handler, where streams cannot be flushed: one of them may be in use."""
    answer("error: interrupted")
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)
    os._exit(INTERRUPTED)


def _end_or(hook: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], object]:
    """``hook``, but a KeyboardInterrupt that Python has nobody to give to ends the process instead of being lost."""

    def handle(unraisable: sys.UnraisableHookArgs) -> object:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _end_now()
        return hook(unraisable)

    return handle


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
