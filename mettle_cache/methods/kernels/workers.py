"""Work that several threads share until there is none left."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait


def share_out(take: Callable[[], None], pool: ThreadPoolExecutor, workers: int) -> None:
    """Call ``take`` in so many threads at once, and raise what one of them raised.

    Only when all have ended: they read memory that the caller may then use again.
    """
    taken = [pool.submit(take) for _ in range(workers)]
    wait(taken)
    for done in taken:
        done.result()
