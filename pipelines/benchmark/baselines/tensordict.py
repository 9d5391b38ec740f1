"""tensordict: a memory-mapped TensorDict over all clips, a clip of it copied into memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class TensordictSession:
    clips: Any
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        row = self.clips[clip]
        for name, target in memory.items():
            torch.from_numpy(target).copy_(row.get(_key(name)))
        return memory


@dataclass(frozen=True)
class Tensordict:
    name: str = "tensordict"
    module: str = "tensordict"
    package: str = "tensordict"
    how: str = "load_memmap, td[clip] copied into reused memory"
    own_files: bool = True

    def write(self, source: Source) -> None:
        from tensordict import MemoryMappedTensor, TensorDict

        whole = {
            _key(array.name): MemoryMappedTensor.empty(
                (source.clips, array.blocks, array.chunk_bytes),
                dtype=torch.uint8,
                filename=source.folder / f"{_key(array.name)}.memmap",
            )
            for array in source.arrays
        }
        clips = TensorDict(whole, batch_size=[source.clips]).memmap_(source.folder)
        for clip in range(source.clips):
            for name, values in source.stored_clip(clip).items():
                clips.get(_key(name))[clip].copy_(torch.from_numpy(values))

    @contextmanager
    def open(self, source: Source) -> Iterator[TensordictSession]:
        from tensordict import TensorDict

        yield TensordictSession(TensorDict.load_memmap(source.folder), sorted(source.folder.rglob("*.memmap")))


def _key(name: str) -> str:
    """Keys become file names."""
    return name.replace("/", "-")
