"""A temporary folder for a bench, on the disk that stores are on, removed however the bench ends."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.extract.config import STORES
from mettle_cache.pipelines.extract.run import check_room
from mettle_cache.store.writing.durable import disk_folder

PREFIX = ".mettle-bench-"


def bench_folder(options: BenchOptions) -> Path:
    """The folder that exists and that temporary files go to."""
    return disk_folder(options.folder or STORES)


@contextmanager
def workplace(options: BenchOptions, needed: int) -> Iterator[Path]:
    """An empty folder with room for ``needed`` bytes; removed at the end, also after Ctrl-C or SIGTERM.

    Raises
    ------
    NoRoomError
        There is no such room.
    """
    folder = bench_folder(options)
    check_room(folder, needed)
    with _sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as place:
        yield Path(place)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does; in the main thread, where Python delivers signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
