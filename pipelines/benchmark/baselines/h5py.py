"""h5py: one file with a contiguous data set an array, read directly into memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class H5pySession:
    file: Any
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        for name, target in memory.items():
            self.file[name].read_direct(target, np.s_[clip])
        return memory


@dataclass(frozen=True)
class H5py:
    name: str = "h5py"
    module: str = "h5py"
    package: str = "h5py"
    how: str = "contiguous data sets, read_direct into reused memory; HDF5 takes one call at a time"
    own_files: bool = True

    def write(self, source: Source) -> None:
        import h5py

        with h5py.File(_path(source), "w") as file:
            for array in source.arrays:
                file.create_dataset(array.name, (source.clips, array.blocks, array.chunk_bytes), "uint8")
            for clip in range(source.clips):
                for name, values in source.stored_clip(clip).items():
                    file[name][clip] = values

    @contextmanager
    def open(self, source: Source) -> Iterator[H5pySession]:
        import h5py

        with h5py.File(_path(source), "r") as file:
            yield H5pySession(file, (_path(source),))


def _path(source: Source) -> Path:
    return source.folder / "tokens.h5"
