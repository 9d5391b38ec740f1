"""How much memory all the clips together may take that are being decoded at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from mettle_cache.datasets.media.allowance import CLIP_BYTES, Allowance, allowed

CLIPS_A_BUDGET = 4
"""A clip may take this part of the memory of all."""
MEMORY = CLIPS_A_BUDGET * CLIP_BYTES
"""Bytes that the clips may take together unless their user says otherwise."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryBudget:
    """``total`` bytes for the clips that are decoded at the same time, at most ``clip`` of them for one.

    A clip that asks for more than is free waits until others are done. The oldest one never waits, so that there is
    always one that gets done; what it may still take is kept for it.
    """

    def __init__(self, total: int = MEMORY, clip: int | None = None) -> None:
        self.total = total
        self.clip_limit = total // CLIPS_A_BUDGET if clip is None else clip
        self._under_way: list[Allowance] = []
        self._changed = threading.Condition()

    @contextmanager
    def clip(self) -> Iterator[None]:
        """Decode one clip in here: what it takes is free again afterwards."""
        share = _Share(self)
        with self._changed:
            self._under_way.append(share)
        try:
            with allowed(share):
                yield
        finally:
            with self._changed:
                self._under_way.remove(share)
                self._changed.notify_all()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let :func:`for_each_clip` in here take from this budget."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def granted(self, share: Allowance, nbytes: int) -> Iterator[None]:
        """Wait until ``share`` may take ``nbytes`` more, and take them in here."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_free(share, nbytes))
            yield

    def _is_free(self, share: Allowance, nbytes: int) -> bool:
        oldest, *others = self._under_way
        return share is oldest or sum(other.taken for other in others) + nbytes <= self.total - self.clip_limit


class _Share(Allowance):
    """One clip's part of a budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        super().__init__(budget.clip_limit)
        self._budget = budget

    def take(self, path: Path, nbytes: int) -> None:
        if self.taken + nbytes > self.limit:
            super().take(path, nbytes)  # which refuses it
        with self._budget.granted(self, nbytes):
            super().take(path, nbytes)


_current: ContextVar[MemoryBudget | None] = ContextVar("budget", default=None)


def for_each_clip(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` of every item, in threads and in the items' order, each as one clip of the budget that is in use."""
    budget = _current.get() or MemoryBudget()

    def within(item: Item) -> Result:
        with budget.clip():
            return work(item)

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as executor:
        return list(executor.map(within, items))
