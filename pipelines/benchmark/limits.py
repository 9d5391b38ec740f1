"""The limits of the machine: reading bytes without looking at them, multiplying matrices, and a training step of both.

Also the page cache, which must be empty or full while reading is timed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

# long enough for a steady rate, short enough for several repeats
MATMUL_SECONDS = 0.3


class FileRange(NamedTuple):
    """Some bytes of a file."""

    path: Path
    offset: int
    nbytes: int


class RawReader:
    """Reads parts of files by ``preadv`` into memory that is used again and again: the limit of any reader.

    ``threads`` is the number of reads in flight; each thread takes the next part that nobody has taken. ``memory`` is
    the number of bytes that they fill in turn, in equal parts: that of a batch, because delivered tokens need as much.
    It is touched once here, so that no page is new while reading is timed.
    """

    def __init__(self, ranges: Sequence[FileRange], *, threads: int, memory: int) -> None:
        self.ranges = tuple(ranges)
        self.threads = threads
        largest = max(part.nbytes for part in ranges)
        self._buffers = [np.ones(max(largest, memory // threads), np.uint8).data for _ in range(threads)]

    def read(self) -> int:
        """Read every part once; returns the bytes."""
        with ExitStack() as stack:
            opened: dict[Path, int] = {}
            for path in dict.fromkeys(part.path for part in self.ranges):
                opened[path] = os.open(path, os.O_RDONLY)
                stack.callback(os.close, opened[path])
            waiting = iter([(opened[path], offset, nbytes) for path, offset, nbytes in self.ranges])
            with ThreadPoolExecutor(self.threads) as executor:
                return sum(executor.map(lambda memory: _read_parts(waiting, memory), self._buffers))


def _read_parts(waiting: Iterator[tuple[int, int, int]], memory: memoryview) -> int:
    total = place = 0
    # what list iterators give is each given to one thread
    for descriptor, offset, size in waiting:
        if place + size > len(memory):
            place = 0
        done = 0
        while done < size:
            count = os.preadv(descriptor, [memory[place + done : place + size]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "a file ends before what is to be read of it")
            done += count
        place += size
        total += size
    return total


def matmul_rate(
    m: int, k: int, n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> float:
    """Multiply-adds a second of one product ``[m, k] x [k, n]``, with as many threads as PyTorch uses.

    The machine's own limit for these shapes and this type: the floor of a step divides its multiply-adds by this.
    """
    place = torch.device(device)
    left = torch.randn(m, k, device=place).to(dtype)
    right = torch.randn(k, n, device=place).to(dtype)
    out = torch.empty(m, n, device=place, dtype=dtype)
    with torch.inference_mode():
        _multiply(left, right, out, 1)
        count, elapsed = 1, 0.0
        while elapsed < MATMUL_SECONDS:
            elapsed = _multiply(left, right, out, count)
            if elapsed < MATMUL_SECONDS:
                count = max(count + 1, int(count * min(10.0, 1.2 * MATMUL_SECONDS / max(elapsed, 1e-6))))
    return m * k * n * count / elapsed


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right, out=out)
    if out.device.type == "cuda":
        torch.cuda.synchronize(out.device)
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least seconds that a clip can take, by what they are spent on; ``optimiser`` is its share of an update."""

    read: float
    products: float
    optimiser: float

    @property
    def seconds(self) -> float:
        """Reading and multiplying can overlap; the update comes after both."""
        return max(self.read, self.products) + self.optimiser

    def describe(self) -> str:
        return (
            f"the larger of {1000 * self.read:.1f} ms to read and {1000 * self.products:.1f} ms of products, and "
            f"{1000 * self.optimiser:.1f} ms of the optimiser"
        )


def evict(files: Iterable[Path]) -> None:
    """Ask the system to drop these files from the page cache; pages that are not on the disk yet stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_fraction(files: Iterable[Path]) -> float:
    """The fraction of these files' pages that is in memory, as ``mincore`` tells."""
    pages = [_cached_pages(path) for path in files]
    total = sum(all_pages for _, all_pages in pages)
    return sum(cached for cached, _ in pages) / total if total else 0.0


def _cached_pages(path: Path) -> tuple[int, int]:
    size = path.stat().st_size
    if size == 0:
        return 0, 0
    count = -(-size // mmap.PAGESIZE)
    # a private writable mapping, because ctypes gives no address of a read-only one
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        view = (ctypes.c_char * size).from_buffer(mapped)
        resident = (ctypes.c_ubyte * count)()
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), resident)
        del view  # the mapping cannot be closed while something points into it
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
    return sum(page & 1 for page in resident), count
