"""How the check measures: the device, its clock, and its limits.

On a CPU everything runs on toy shapes, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import torch

# of a copy: large enough that no cache holds it
_COPIED_BYTES, _TINY_COPIED = 1 << 30, 1 << 22


@dataclass(frozen=True, kw_only=True)
class Setting:
    """``seconds`` is what one part may take, about; ``tiny`` takes toy shapes."""

    device: torch.device
    tiny: bool = False
    repeats: int = 9
    seconds: float = 100.0

    def time(self, work: Callable[[], object], *, repeats: int | None = None) -> float:
        """The median of seconds that ``work`` takes on the device; once it runs untimed."""
        work()
        return statistics.median(self._once(work) for _ in range(repeats or self.repeats))

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    @cached_property
    def copy_bandwidth(self) -> float:
        """Bytes a second that the device reads and writes when it copies a gigabyte."""
        nbytes = _TINY_COPIED if self.tiny else _COPIED_BYTES
        source = torch.zeros(nbytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * nbytes / self.time(lambda: target.copy_(source))

    def reset_peak(self) -> None:
        """Start counting the device's memory anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """Gigabytes that were allocated at most since; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None

    def describe(self) -> dict[str, str]:
        """The machine by topic."""
        facts = {
            "Python": platform.python_version(),
            "PyTorch": str(torch.__version__),
            "Triton": _triton_version(),
            "device": str(self.device),
        }
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            facts["GPU"] = (
                f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, sm_{properties.major}{properties.minor}"
            )
            facts["CUDA"] = str(torch.version.cuda or torch.version.hip)
            facts["driver"] = _driver()
        return facts


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi does not answer"
