"""The options of every bench, and the temporary folder that it works in."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mettle_cache.devices import check_device_name
from mettle_cache.errors import ConfigError, NoRoomError, UsageError
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.timing import LEAST_REPEATS

MOST_REPEATS, MOST_CLIPS, MOST_BATCH = 1000, 100_000, 1024
PREFIX = ".mettle-bench-"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to run a bench.

    Attributes
    ----------
    clips
        How many clips to work on; None: the bench's own number.
    tiny
        Toy shapes, in seconds: to try a bench out.
    folder
        Where temporary files go; None: the disk that the stores are on by default.
    device
        None: a GPU where there is one.
    store
        The store to measure, for a bench that takes one; None: tokens of its own.
    recipe, methods, batch
        For a bench of a published setting: its recipe's name, the methods to measure and the samples a batch; None, or
        no methods: the bench's own.
    latency
        Measure inference alone, in a bench that measures training as well.

    Raises
    ------
    ConfigError
        All that is wrong with the above.
    """

    repeats: int = LEAST_REPEATS
    clips: int | None = None
    tiny: bool = False
    folder: Path | None = None
    device: str | None = None
    store: Path | None = None
    recipe: str | None = None
    methods: tuple[str, ...] = ()
    batch: int | None = None
    latency: bool = False

    def __post_init__(self) -> None:
        problems = [*self._problems(), *resolve_fields(self, "folder", "store")]
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle bench --help")

    def _problems(self) -> Iterator[str]:
        if not 1 <= self.repeats <= MOST_REPEATS:
            yield f"--repeats {self.repeats}: must be from 1 to {MOST_REPEATS}"
        try:
            check_device_name(self.device)
        except UsageError as error:
            yield f"--device: {error.message}"
        if self.clips is not None and not 1 <= self.clips <= MOST_CLIPS:
            yield f"--clips {self.clips}: must be from 1 to {MOST_CLIPS}"
        if self.batch is not None and not 1 <= self.batch <= MOST_BATCH:
            yield f"--batch {self.batch}: must be from 1 to {MOST_BATCH}"

    def command(self, bench: str) -> str:
        """The command line with these options, without paths, which belong to this machine."""
        parts = [f"mettle bench {bench}", f"--repeats {self.repeats}"]
        if self.clips is not None:
            parts.append(f"--clips {self.clips}")
        if self.tiny:
            parts.append("--tiny")
        if self.device is not None:
            parts.append(f"--device {self.device}")
        if self.store is not None:
            parts.append("--store STORE")
        if self.recipe is not None:
            parts.append(f"--recipe {self.recipe}")
        parts += [f"--method {method}" for method in self.methods]
        if self.batch is not None:
            parts.append(f"--batch {self.batch}")
        if self.latency:
            parts.append("--latency")
        return " ".join(parts)


def bench_disk(options: BenchOptions) -> Path:
    """The existing folder for temporary files."""
    from mettle_cache.pipelines.extract.config import STORES
    from mettle_cache.store.writing.durable import disk_folder

    return disk_folder(options.folder or STORES)


@contextmanager
def bench_folder(options: BenchOptions, needed: int) -> Iterator[Path]:
    """An empty folder with room for ``needed`` bytes; removed at the end, also after Ctrl-C or SIGTERM.

    Raises
    ------
    NoRoomError
        There is no such room.
    """
    from mettle_cache.pipelines.room import check_room

    folder = bench_disk(options)
    try:
        check_room(folder, needed)
    except NoRoomError as error:
        raise NoRoomError(error.message, hint="give another disk with --folder, or fewer --clips") from None
    with _sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as folder_name:
        yield Path(folder_name)


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
