"""Running work in a new process, and measuring the memory that it takes there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

from mettle_cache.devices import peak_resident
from mettle_cache.errors import MettleError, RunError

_TAIL = 400


def call_in_child(module: str, request: Mapping[str, object]) -> dict[str, Any]:
    """Run ``python -m module`` on a request and return its answer; both are JSON. See :func:`serve`.

    Raises
    ------
    RunError
        The process died; names the signal, or what it said last.
    """
    # isolated from the current folder, which may hold anything
    command = [sys.executable, "-P", "-m", module]
    child = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if child.returncode == 0:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return answer
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise RunError(
            f"a process of the bench was ended by {name}",
            hint="SIGKILL usually means that memory ran out: close other programs, or ask for fewer clips",
        )
    said = child.stderr.strip().splitlines() or ["nothing"]
    raise RunError(f"a process of the bench failed with code {child.returncode}: {said[-1][:_TAIL]}")


def serve(work: Callable[[dict[str, Any]], Mapping[str, object]]) -> None:
    """The other side of :func:`call_in_child`: answer the one request on stdin, on stdout."""
    try:
        answer = work(json.load(sys.stdin))
    except MettleError as error:
        sys.stderr.write(f"{error.message}\n".replace("\n", " "))
        sys.exit(error.exit_code)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


class MemoryMeter:
    """Measures memory from the moment it is made: allocations on a GPU, or the resident set of this process.

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
