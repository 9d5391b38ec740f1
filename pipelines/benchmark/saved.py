"""What a forward pass keeps for its backward pass, other than the weights and the tokens that were given to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SavedStorages:
    """Memory that autograd holds on to; ``nbytes`` counts each piece once, however many tensors share it."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self._sizes: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        return sum(self._sizes.values())

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._given:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


@contextmanager
def counting_saved(given: Iterable[Tensor]) -> Iterator[SavedStorages]:
    """Count what is saved inside the block; the storages of ``given`` are not."""
    saved = SavedStorages(given)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved
