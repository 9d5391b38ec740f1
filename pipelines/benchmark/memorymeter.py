"""How much memory a piece of work takes, above what the process held before it."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")


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


def peak_resident(status: Path = _STATUS) -> int:
    """The most bytes that were resident in this process.

    From the memory map's own record where the system has one: ``getrusage`` may count the parent's peak in.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def available_memory(device: torch.device) -> int:
    """Bytes that could be taken now without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
