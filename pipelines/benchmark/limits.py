"""What the machine can do at best: read bytes that nobody looks at, and multiply matrices."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

# long enough for a steady rate, short enough for several repeats
MATMUL_SECONDS = 0.3


class RawReader:
    """Reads whole files by ``preadv`` into memory that is used again and again: the limit of any reader.

    ``threads`` is how many reads are in flight, ``memory`` the bytes that they fill in turn, shared out among them
    (as many as a batch has: tokens that are delivered must lie somewhere). It is touched once here, so no page is new
    when it counts.
    """

    def __init__(self, files: Sequence[Path], *, threads: int, memory: int) -> None:
        self.files = tuple(files)
        self.threads = threads
        largest = max(path.stat().st_size for path in files)
        self._buffers = [np.ones(max(largest, memory // threads), np.uint8).data for _ in range(threads)]

    def read(self) -> int:
        """Read every file once; returns the bytes."""
        count, threads = len(self.files), self.threads
        shares = [self.files[count * n // threads : count * (n + 1) // threads] for n in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(_read_files, shares, self._buffers))


def _read_files(files: Sequence[Path], memory: memoryview) -> int:
    total = place = 0
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if place + size > len(memory):
                place = 0
            done = 0
            while done < size:
                done += os.preadv(descriptor, [memory[place + done : place + size]], done)
        finally:
            os.close(descriptor)
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
