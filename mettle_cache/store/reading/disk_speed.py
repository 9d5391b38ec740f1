"""The speed of cold reads from a disk, measured in about a second."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mettle_cache.errors import NoRoomError, StoreError

# reads in flight, of a reader by default as well: enough for a disk, few enough for two cores
READS_AHEAD = 3
PROBE_BYTES = 256 << 20
READ_BYTES = 4 << 20


def measure_read_speed(folder: Path, *, nbytes: int = PROBE_BYTES) -> float:
    """Bytes a second of cold reads from a temporary file in ``folder``, which is removed again.

    As many reads are in flight as the reader has by default.

    The file is written, synced and dropped from the page cache before it is read. A virtual disk may keep a cache of
    its own; what it gives from there counts as the disk's.

    Raises
    ------
    StoreError
        The folder cannot be written; NoRoomError when it is full.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mettle-read-speed-") as file:
            _fill(file.fileno(), nbytes)
            return nbytes / _time_cold_read(file.fileno(), nbytes)
    except OSError as error:
        kind = NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(
            f"cannot measure the disk in {folder}: {error.strerror}", hint="free some room, or skip the measurement"
        ) from error


def _fill(descriptor: int, nbytes: int) -> None:
    # random bytes: a file system that compresses must not look fast
    piece = os.urandom(READ_BYTES)
    for start in range(0, nbytes, READ_BYTES):
        os.pwrite(descriptor, piece[: nbytes - start], start)
    os.fsync(descriptor)


def _time_cold_read(descriptor: int, nbytes: int) -> float:
    buffers = [bytearray(READ_BYTES) for _ in range(READS_AHEAD)]
    os.posix_fadvise(descriptor, 0, nbytes, os.POSIX_FADV_DONTNEED)

    def read(number: int) -> None:
        for start in range(number * READ_BYTES, nbytes, READS_AHEAD * READ_BYTES):
            os.preadv(descriptor, [buffers[number]], start)

    with ThreadPoolExecutor(READS_AHEAD) as executor:
        started = time.perf_counter()
        list(executor.map(read, range(READS_AHEAD)))
        return time.perf_counter() - started
