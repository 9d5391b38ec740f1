"""np.memmap over the same shards, copied into memory that is used again: what bare Python can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class MemmapSession:
    chunks: Sequence[ClipArrays]
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        for name, target in memory.items():
            np.copyto(target, self.chunks[clip][name])
        return memory


@dataclass(frozen=True)
class NumpyMemmap:
    name: str = "np.memmap"
    module: str = "numpy"
    package: str = "numpy"
    how: str = "chunks of the same shards, maps kept open, copied into reused memory"
    own_files: bool = False

    def write(self, source: Source) -> None:
        """Nothing: it reads the store itself."""

    @contextmanager
    def open(self, source: Source) -> Iterator[MemmapSession]:
        chunks = [
            {array.name: _map(source, array.name, clip) for array in source.arrays} for clip in range(source.clips)
        ]
        yield MemmapSession(chunks, source.shards())


def _map(source: Source, name: str, clip: int) -> NDArray[np.generic]:
    """The chunks of one shard as ``[blocks, *chunk_shape]``, stepping over the checksums."""
    array = next(array for array in source.arrays if array.name == name)
    whole = np.memmap(source.shard(array, clip), np.uint8, mode="r")
    rows = np.ndarray((array.blocks, array.chunk_bytes), np.uint8, whole, strides=(array.chunk_offset(1), 1))
    return rows.view(array.dtype).reshape(array.blocks, *array.chunk_shape)
