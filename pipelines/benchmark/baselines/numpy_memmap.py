"""np.memmap over the same shards, copied into memory that is used again: what bare Python can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source
from mettle_cache.store.format.layout import ArrayLayout


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
        maps = {path: np.memmap(path, np.uint8, mode="r") for path in source.shards()}
        chunks = [
            {array.name: _chunks(array, clip, maps[source.shard(array, clip)]) for array in source.arrays}
            for clip in range(source.clips)
        ]
        yield MemmapSession(chunks, source.shards())


def _chunks(array: ArrayLayout, clip: int, shard: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip's chunks in a mapped shard, ``[blocks, chunk_bytes]``, stepping over the checksums."""
    start = array.chunk_offset(clip, 0)
    return shard[start : start + array.clip_bytes].reshape(array.blocks, -1)[:, : array.chunk_bytes]
