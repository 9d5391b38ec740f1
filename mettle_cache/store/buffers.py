"""Memory for one batch of stored tokens: allocated once, filled by many threads, used again for the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from mettle_cache.store.layout import CRC_BYTES, ArrayLayout
from mettle_cache.tokens import LayerTokens, TokenBatch


@dataclass(frozen=True)
class BlockRun:
    """Blocks that follow one another in an array's shards, and so are read in one go."""

    array: ArrayLayout
    blocks: range

    @property
    def offset(self) -> int:
        return self.array.chunk_offset(self.blocks.start)

    @property
    def nbytes(self) -> int:
        """Bytes on disk, checksums included."""
        return len(self.blocks) * (self.array.chunk_bytes + CRC_BYTES)


def block_runs(layout: Sequence[ArrayLayout], names: Sequence[str]) -> list[BlockRun]:
    """What to read of each shard to get the layers ``names``."""
    wanted = set(names)
    runs = []
    for array in layout:
        blocks = [block for block, layer in enumerate(array.layers) if layer.name in wanted]
        for _, members in groupby(enumerate(blocks), lambda pair: pair[1] - pair[0]):
            run = [block for _, block in members]
            runs.append(BlockRun(array, range(run[0], run[-1] + 1)))
    return runs


class BatchBuffer:
    """Tensors for up to ``size`` clips, and views of their memory to read into.

    ``pin`` locks the pages, so that a GPU can fetch from them on its own.
    """

    def __init__(self, runs: Sequence[BlockRun], size: int, *, pin: bool = False) -> None:
        self.runs = tuple(runs)
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._bytes: dict[tuple[str, int], memoryview] = {}
        # the checksums between chunks land here and are not looked at: those of the commit record count
        self._crc = memoryview(bytearray(CRC_BYTES))
        for run in self.runs:
            for block in run.blocks:
                self._allocate(run.array, block, size, pin)

    def _allocate(self, array: ArrayLayout, block: int, size: int, pin: bool) -> None:
        tensor = torch.empty(size, *array.chunk_shape, dtype=getattr(torch, array.dtype), pin_memory=pin)
        self._tensors.setdefault(array.layers[block].name, {})[array.part] = tensor
        self._bytes[array.name, block] = memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        return sum(view.nbytes for view in self._bytes.values())

    def chunk(self, array: ArrayLayout, block: int, slot: int) -> memoryview:
        """The memory of one chunk of the clip in ``slot``."""
        size = array.chunk_bytes
        return self._bytes[array.name, block][slot * size : (slot + 1) * size]

    def targets(self, run: BlockRun, slot: int) -> list[memoryview]:
        """Where the bytes of a run go: chunk, checksum, chunk, checksum, ..."""
        views = []
        for block in run.blocks:
            views += [self.chunk(run.array, block, slot), self._crc]
        return views

    def batch(self, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The first ``len(clips)`` slots as a batch; views, no copies."""
        count = len(clips)
        layers = {
            name: LayerTokens(**{part: tensor[:count] for part, tensor in self._tensors[name].items()})
            for name in names
        }
        return TokenBatch(layers, tuple(clips))
