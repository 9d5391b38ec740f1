"""Copies between host memory and a GPU that nobody waits for: the one file that knows CUDA's streams and events."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on ``device``; the host does not wait for the copy.

    From ordinary memory CUDA would wait. The allocator of page-locked memory reuses it after the copy only.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
