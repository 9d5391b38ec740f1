"""Memory for batches that outlives an epoch: new pages cost as much as reading into them."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor


class MemoryPool:
    """Gives out memory, and takes it back by itself when the last tensor in it is gone; thread-safe.

    So nothing that somebody still holds is ever written again, whoever forgot to give it back. What is spare is kept
    for a request that fits into it, and dropped when one comes that does not: the pool never holds more than was in
    use at once.
    """

    def __init__(self) -> None:
        self._spare: list[Tensor] = []
        self._open = True
        # taken again by a thread that holds it, when the collector frees memory in the middle of take()
        self._lock = threading.RLock()

    @property
    def spare_bytes(self) -> int:
        """What is kept and not in use."""
        with self._lock:
            return sum(block.nbytes for block in self._spare)

    def take(self, nbytes: int) -> Tensor:
        """``[nbytes]`` uint8, not initialised."""
        with self._lock:
            self._open = True
            fitting = [block for block in self._spare if block.nbytes >= nbytes]
            block = min(fitting, key=lambda block: block.nbytes, default=None)
            # compared by identity: tensors compare by their elements
            self._spare = [other for other in self._spare if other is not block] if fitting else []
        if block is None:
            block = torch.empty(nbytes, dtype=torch.uint8)
        # every tensor made of this view holds the view, so its end is theirs
        view = block.numpy()[:nbytes]
        weakref.finalize(view, self._take_back, block).atexit = False
        return torch.from_numpy(view)

    def close(self) -> None:
        """Free what is spare, and what comes back from now on; the pool can be used again."""
        with self._lock:
            self._open = False
            self._spare = []

    def _take_back(self, block: Tensor) -> None:
        with self._lock:
            if self._open:
                self._spare.append(block)
