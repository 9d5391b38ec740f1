"""tensorstore: the arrays of a clip one after the other, as many clips at once as there are threads.

Asking for all arrays of a clip at once, or limiting its own concurrency to the threads, was measured to be slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class TensorstoreSession:
    arrays: dict[str, Any]
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        return {name: array[clip].read().result() for name, array in self.arrays.items()}


@dataclass(frozen=True)
class Tensorstore:
    name: str = "tensorstore"
    module: str = "tensorstore"
    package: str = "tensorstore"
    how: str = "array[clip].read() on the same store"
    own_files: bool = False

    def write(self, source: Source) -> None:
        """Nothing: it reads the store itself."""

    @contextmanager
    def open(self, source: Source) -> Iterator[TensorstoreSession]:
        import tensorstore

        arrays = {
            array.name: tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{source.store / array.name}/"}},
                open=True,
                read=True,
            ).result()
            for array in source.arrays
        }
        yield TensorstoreSession(arrays, source.shards())
