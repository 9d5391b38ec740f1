"""Work in threads whose results come in the order of its items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Generator[_Result, None, None]:
    """``function`` of every item, at most twice as many under way or waiting as there are threads.

    Items are taken as they are needed, in the thread that iterates. When nobody wants more, what is under way is left
    to itself. Raises what the function raised, in that item's turn.
    """
    waiting: deque[Future[_Result]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            while len(waiting) < 2 * threads:
                try:
                    waiting.append(pool.submit(function, next(rest)))
                except StopIteration:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
