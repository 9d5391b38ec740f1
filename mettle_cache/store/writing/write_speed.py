"""How fast a disk takes writes for long: past the fast cache that many disks fill first, where enough is written.

Written as the store's writers write: in pieces, by several threads, each piece made durable before its next one.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import median, pvariance
from typing import BinaryIO, cast

from mettle_cache.errors import NoRoomError, StoreError
from mettle_cache.store.writing.durable import free_bytes

WRITERS = 2
PIECE_BYTES = 16 << 20
# of what is free when the test begins, whoever else writes meanwhile
LEFT_FREE = 1 / 4
# the rate is looked at in so many stretches of equal size, and a drop is one to less than this part
STRETCHES, FEWEST_STRETCHES, DROP = 16, 4, 2 / 3


@dataclass(frozen=True, kw_only=True)
class WriteSpeed:
    """What a test of ``written`` bytes found, in bytes/s.

    ``sustained`` is the rate after a drop, where there was one: then ``fell_from`` is the rate before it, and
    ``fell_after`` the bytes that had been written.
    """

    sustained: float
    written: int
    fell_from: float | None = None
    fell_after: int | None = None


def measure_write_speed(
    folder: Path, *, nbytes: int, seconds: float | None = None, advance: Callable[[int], object] | None = None
) -> WriteSpeed:
    """Write ``nbytes``, in whole pieces, to files without a name in ``folder``, which vanish however this ends.

    ``seconds`` ends it earlier; ``advance`` is told the bytes of each piece. A quarter of what was free stays free.

    Raises
    ------
    NoRoomError
        So many bytes would take more than half of what is free, or the disk or a quota is full.
    StoreError
        The folder cannot be written.
    """
    free = check_room_for_test(folder, nbytes)
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(WRITERS)]
            test = _Test(folder, -(-nbytes // PIECE_BYTES), seconds, int(free * LEFT_FREE), advance)
            return speed_of(test.write([cast(BinaryIO, file) for file in files]))
    except OSError as error:
        kind = NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StoreError
        raise kind(
            f"cannot measure the disk in {folder}: {error.strerror}", hint="free some room, or skip the measurement"
        ) from error


def check_room_for_test(folder: Path, nbytes: int) -> int:
    """The bytes that are free in ``folder``. Raises NoRoomError where a test of ``nbytes`` would take most of them."""
    free = free_bytes(folder)
    if nbytes > free / 2:
        raise NoRoomError(
            f"a test of {nbytes:,} bytes is too large for {folder}: {free:,} are free, and it takes half at most",
            hint="test the disk with less, or make room",
        )
    return free


def speed_of(ends: Sequence[float], piece: int = PIECE_BYTES) -> WriteSpeed:
    """What pieces say of ``piece`` bytes each, durable at the seconds ``ends`` since the first was begun, in order."""
    whole = WriteSpeed(sustained=len(ends) * piece / ends[-1], written=len(ends) * piece)
    each = max(1, len(ends) // STRETCHES)
    bounds = [0.0, *ends[each - 1 :: each]]
    rates = [each * piece / max(after - before, 1e-9) for before, after in pairwise(bounds)]
    if len(rates) < FEWEST_STRETCHES:
        return whole
    fast = _fall(rates)
    if median(rates[fast:]) >= DROP * median(rates[:fast]):
        return whole
    done = fast * each
    return WriteSpeed(
        sustained=(len(ends) - done) * piece / (ends[-1] - bounds[fast]),
        written=whole.written,
        fell_from=done * piece / bounds[fast],
        fell_after=done * piece,
    )


def _fall(rates: Sequence[float]) -> int:
    """After how many stretches two constant rates, one before and one after, fit best; on a scale of ratios."""
    logs = [log(rate) for rate in rates]

    def misfit(fast: int) -> float:
        return fast * pvariance(logs[:fast]) + (len(logs) - fast) * pvariance(logs[fast:])

    # what happens in the very last stretch says nothing yet
    return min(range(1, len(logs) - len(logs) // 8), key=misfit)


@dataclass
class _Test:
    """Pieces that several threads write one after the other, until there are enough."""

    folder: Path
    pieces: int
    seconds: float | None
    reserve: int
    advance: Callable[[int], object] | None
    begun: int = 0
    ends: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, files: Sequence[BinaryIO]) -> list[float]:
        """The seconds at which each piece was durable, in order; there is one at least."""
        # random, so that a file system that compresses does not look fast
        content = os.urandom(PIECE_BYTES)
        with ThreadPoolExecutor(len(files)) as writers:
            started = time.perf_counter()
            try:
                ended = [writers.submit(self._fill, file.fileno(), content, started) for file in files]
                for one in ended:
                    one.result()
            finally:
                self.stopped.set()
        return sorted(self.ends)

    def _fill(self, descriptor: int, content: bytes, started: float) -> None:
        place = 0
        while (number := self._next()) is not None:
            # begun elsewhere each time: nor does one that stores equal blocks once
            shift = 1 + number * 4099 % (len(content) - 1)
            for part in (content[shift:], content[:shift]):
                _write_all(descriptor, part, place)
                place += len(part)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            now = time.perf_counter() - started
            with self.lock:
                self.ends.append(now)
            if self.advance is not None:
                self.advance(len(content))
            if (self.seconds is not None and now > self.seconds) or free_bytes(self.folder) < self.reserve:
                self.stopped.set()

    def _next(self) -> int | None:
        with self.lock:
            if self.stopped.is_set() or self.begun == self.pieces:
                return None
            self.begun += 1
            return self.begun


def _write_all(descriptor: int, content: bytes, place: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(descriptor, view, place)
        view, place = view[count:], place + count
