"""MosaicML Streaming: MDS shards read from the local disk by index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class MosaicSession:
    dataset: Any
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        return dict(self.dataset[clip])


@dataclass(frozen=True)
class Mosaicml:
    name: str = "MosaicML Streaming"
    module: str = "streaming"
    package: str = "mosaicml-streaming"
    how: str = "MDS shards on this disk, dataset[clip]"
    own_files: bool = True

    def write(self, source: Source) -> None:
        from streaming import MDSWriter

        columns = {array.name: f"ndarray:uint8:{array.blocks},{array.chunk_bytes}" for array in source.arrays}
        with MDSWriter(out=str(source.folder), columns=columns) as writer:
            for clip in range(source.clips):
                writer.write(source.stored_clip(clip))

    @contextmanager
    def open(self, source: Source) -> Iterator[MosaicSession]:
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(source.folder), batch_size=1, shuffle=False)
        yield MosaicSession(dataset, sorted(source.folder.glob("*.mds")))
