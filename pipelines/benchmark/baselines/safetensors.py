"""safetensors: one file a clip, its mapped tensors copied into memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class SafetensorsSession:
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        from safetensors import safe_open

        with safe_open(str(self.files[clip]), framework="pt") as file:
            for name, target in memory.items():
                torch.from_numpy(target).copy_(file.get_tensor(name))
        return memory


@dataclass(frozen=True)
class Safetensors:
    name: str = "safetensors"
    module: str = "safetensors"
    package: str = "safetensors"
    how: str = "a file a clip, safe_open and get_tensor, copied into reused memory"
    own_files: bool = True

    def write(self, source: Source) -> None:
        from safetensors.numpy import save_file

        for clip, path in enumerate(_paths(source)):
            save_file(source.stored_clip(clip), path)

    @contextmanager
    def open(self, source: Source) -> Iterator[SafetensorsSession]:
        yield SafetensorsSession(_paths(source))


def _paths(source: Source) -> list[Path]:
    return [source.folder / f"{clip}.safetensors" for clip in range(source.clips)]
