"""How much memory a piece of work takes, above what the process held before it."""

from __future__ import annotations

import psutil
import torch

from mettle_cache.devices import peak_resident


class MemoryMeter:
    """Counts from where it is made: allocations on a GPU, or the resident set of this process.

    The resident set's peak is the process's own, so make the meter early: an earlier peak would hide a later one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = self._held()

    @property
    def kind(self) -> str:
        """What is counted."""
        return "GPU allocations" if self.device.type == "cuda" else "RSS of a process of its own"

    @property
    def now(self) -> int:
        """Bytes held above the start."""
        return self._held() - self._start

    @property
    def peak(self) -> int:
        """The most bytes held above the start, so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._start
        return max(peak_resident() - self._start, 0)

    def _held(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)


def available_memory(device: torch.device) -> int:
    """Bytes that could be taken now without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
