"""Frames of a layer in parts: how many at a time, and on which threads.

The size of a part does not depend on the number of threads, so the same sums in the same order give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from mettle_cache.methods.kernels.layer_threads import run_in_threads

# a part's codes, which are visited twice, and its scores fit a core's second cache
PART_BYTES = 1 << 20
MOST_FRAMES = 32
# a row of products goes on to whole pieces of every kind of product
ROW_STEP = 16


def frames_a_part(count: int, width: int) -> int:
    """How many frames of ``count`` rows of ``width`` codes are a part."""
    return min(max(PART_BYTES // max(count * width, 1), 1), MOST_FRAMES)


def run_parts(parts: int, make_worker: Callable[[], Callable[[int], None]]) -> None:
    """Do every part once, on as many threads as PyTorch uses; a thread takes the next part when it is done.

    Every thread makes a worker of its own, with memory that it uses again, and calls it with the parts' numbers.
    """
    threads, numbers = min(torch.get_num_threads(), parts), iter(range(parts))

    def take_parts() -> None:
        work = make_worker()
        for number in numbers:
            work(number)

    if threads < 2:
        take_parts()
        return
    run_in_threads(take_parts, _frame_executor(threads), threads)


@functools.cache
def _frame_executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mettle-distil")
