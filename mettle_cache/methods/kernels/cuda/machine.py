"""Which machines the kernels run on, and the one note about those on which PyTorch pools instead."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch

# of NVIDIA's generations the first that multiplies bytes and copies to shared memory as the kernels do (Ampere)
FIRST_CAPABILITY = (8, 0)
_told: set[str] = set()


@functools.cache
def missing(device: torch.device) -> str | None:
    """Why the kernels cannot run on an accelerator, in a few words; None where they can."""
    if device.type != "cuda":
        return f"they are for NVIDIA GPUs, and this device is '{device.type}'"
    if torch.version.hip is not None:
        return "they are for NVIDIA GPUs, and this is one of AMD (ROCm)"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than NVIDIA's Ampere"
    return None


def can_run(device: torch.device) -> bool:
    """Whether the kernels run on tensors of this device."""
    return missing(device) is None


def tell_what_is_missing(devices: Iterable[torch.device], note: Callable[[str], None]) -> None:
    """Say once a process why an accelerator pools by PyTorch's own operations. A CPU has kernels of its own."""
    for device in devices:
        why = None if device.type in ("cpu", "meta") else missing(device)
        if why is not None and why not in _told:
            _told.add(why)
            note(f"tokens are pooled by PyTorch's operations, several times slower than the GPU kernels: {why}")
