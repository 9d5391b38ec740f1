"""Memory for batches that outlives an epoch: new pages cost as much as reading into them."""

from __future__ import annotations

import mmap
import threading
import weakref
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor


class MemoryPool:
    """Gives out memory, and takes it back by itself when the last tensor in it is gone; thread-safe.

    So nothing that somebody still holds is ever written again, whoever forgot to give it back. What is spare is kept
    for a request that fits into it, and dropped when one comes that does not: the pool never holds more than was in
    use at once.
    """

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []
        self._open = True
        # taken again by a thread that holds it, when the collector frees memory in the middle of take()
        self._lock = threading.RLock()

    @property
    def spare_bytes(self) -> int:
        """What is kept and not in use."""
        with self._lock:
            return sum(map(len, self._spare))

    def take(self, nbytes: int) -> Tensor:
        """``[nbytes]`` uint8, not initialised."""
        with self._lock:
            self._open = True
            block = min((spare for spare in self._spare if len(spare) >= nbytes), key=len, default=None)
            self._spare = [] if block is None else [spare for spare in self._spare if spare is not block]
        if block is None:
            block = _map_memory(nbytes)
        # every tensor made of this view holds the view, so its end is theirs
        view = np.frombuffer(block, np.uint8, nbytes)
        weakref.finalize(view, self._take_back, block).atexit = False
        return torch.from_numpy(view)

    def close(self) -> None:
        """Free what is spare, and what comes back from now on; the pool can be used again."""
        with self._lock:
            self._open = False
            self._spare = []

    def _take_back(self, block: mmap.mmap) -> None:
        with self._lock:
            if self._open:
                self._spare.append(block)


def _map_memory(nbytes: int) -> mmap.mmap:
    """Memory that starts on a page, of large pages where the system has them: those are new in half the time."""
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # a kernel that was built without them refuses the advice
        with suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
