"""What the stages ask of the machine they run on: a device, cores, random numbers, sums in one order, memory.

Light: PyTorch is loaded by the functions that need it.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import UsageError

if TYPE_CHECKING:
    import torch

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
# of glibc's mallopt, and the largest threshold that it takes: a gradient of the widest layers fits
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
_NEVER = (1 << 31) - 1
_STATUS = Path("/proc/self/status")


def choose_device(name: str | None) -> torch.device:
    """The named device, or a GPU where there is one.

    Raises
    ------
    UsageError
        There is no such device here.
    """
    import torch

    check_device_name(name)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"there is no device called '{name}'", hint="use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device} was asked for, but PyTorch finds no GPU here", hint="use --device cpu")
    return device


def check_device_name(name: str | None) -> None:
    """Refuse what is no device's name, without asking PyTorch whether there is one here. Raises UsageError."""
    if name is not None and name.partition(":")[0] not in DEVICE_TYPES:
        raise UsageError(f"there is no device called '{name}'", hint="use cpu, cuda or cuda:N")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of the CPU, and of ``device``, follow from ``seed`` inside; outside nothing changes."""
    import torch

    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """PyTorch's products on a CPU use one thread inside: their last bits depend on the number of threads.

    Only this thread's number changes, and for a moment that of threads which are started meanwhile.
    """
    import torch

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def prepare_process() -> None:
    """What every process that trains or evaluates does first: one order of summation, and freed memory that stays."""
    fix_summation_order()
    keep_freed_memory()


def fix_summation_order() -> None:
    """Make MKL add in one order, whatever the number of threads and whatever ran before.

    It reads this before a process's first product only. Without it a Swin's tokens move by 3e-7 of their peak between
    one thread and two, and a head's weights would depend on whether a backbone had run earlier in the process. It costs
    nothing measurable.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, where it is glibc; whether it does.

    It would give blocks of megabytes back to the system, which then clears every page of the next ones: in training a
    twentieth of a step. The peak does not change; what was needed once stays until the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _NEVER))


def peak_memory(device: torch.device) -> tuple[int, str]:
    """The most bytes that this process has held so far, and of what: the GPU's allocations or the process (RSS)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device), "GPU allocations"
    return peak_resident(), "process (RSS)"


def peak_resident(status: Path = _STATUS) -> int:
    """The most bytes that were resident in this process.

    From the memory map's own record where the system has one: ``getrusage`` may count the parent's peak in.
    """
    high_water_mark = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if high_water_mark:
        return int(high_water_mark[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
