"""Samples of a split in a chosen order, as batches of stored tokens.

A sample is an annotation row; several samples may share a clip, which is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.tokens import TokenBatch

if TYPE_CHECKING:
    from mettle_cache.store.reader import TokenStore


@dataclass(frozen=True)
class Split:
    """Samples by position in the store's sample table: those to use, and those whose clip has no tokens."""

    name: str
    rows: tuple[int, ...]
    dropped: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


def read_split(store: TokenStore, name: str) -> Split:
    """The samples of one split, in the order of the annotations."""
    splits, clips = store.samples["split"].to_pylist(), store.samples["clip"].to_pylist()
    usable = set(store.clips) - set(store.failed)
    rows = [row for row, split in enumerate(splits) if split == name]
    return Split(
        name,
        tuple(row for row in rows if clips[row] in usable),
        tuple(row for row in rows if clips[row] not in usable),
    )


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of ``count`` samples that depends on the seed and the epoch, and on nothing else."""
    order: list[int] = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count).tolist()
    return order


class Feed:
    """Batches of one store's tokens for the samples that are asked for."""

    def __init__(
        self, store: TokenStore, layers: Sequence[LayerSpec], *, device: torch.device, threads: int = 3
    ) -> None:
        self.store = store
        self.names = [layer.name for layer in layers]
        self.device = device
        self.threads = threads
        index = {clip: position for position, clip in enumerate(store.clips)}
        self._clip_of_row = [index.get(clip, -1) for clip in store.samples["clip"].to_pylist()]

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], TokenBatch]]:
        """Sample positions and their tokens, ``batch_size`` at a time; the last batch may be smaller.

        A batch's memory is reused: it is valid until the next one is asked for.
        """
        groups = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
        wanted = [[self._clip_of_row[row] for row in group] for group in groups]
        tokens = self.store.batches(wanted, layers=self.names, threads=self.threads, device=str(self.device))
        yield from zip(groups, tokens, strict=True)
