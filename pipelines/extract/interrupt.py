"""Ctrl-C and SIGTERM as a request to stop after the clip in hand, instead of an exception in the middle of a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from mettle_cache.errors import MettleError


class InterruptedRunError(MettleError):
    """The user stopped the work; what is committed stays."""

    exit_code = 130


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python delivers no signals, the event is simply never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_kept_from_children() -> Iterator[None]:
    """Processes that are started in here, or later by a thread that is, never see a SIGINT or SIGTERM.

    A terminal sends Ctrl-C to every process of a command; the one that coordinates must be the only one to act on it.
    What arrives meanwhile is delivered at the end.
    """
    # it unblocks both signals when it starts, so it must be running already
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
