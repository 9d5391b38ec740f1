"""How much memory is free, and how much a forward pass keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from mettle_cache.pipelines.control_groups import memory_left


def available_memory(device: torch.device) -> int:
    """Bytes that could be taken now without swapping, and without what a container would end the process for."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    allowed = memory_left()
    return free if allowed is None else min(free, allowed)


class SavedStorages:
    """Memory that autograd saves; ``nbytes`` counts each storage once, however many tensors share it."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in excluded}
        self._sizes: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        return sum(self._sizes.values())

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._excluded:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


@contextmanager
def counting_saved(excluded: Iterable[Tensor]) -> Iterator[SavedStorages]:
    """Count what is saved inside the block; the storages of ``excluded`` are not."""
    saved = SavedStorages(excluded)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved
