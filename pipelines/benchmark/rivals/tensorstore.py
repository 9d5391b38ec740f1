"""tensorstore: every array of a clip asked for at once, its own threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.benchmark.rivals.protocol import ClipArrays, Source


@dataclass(frozen=True)
class TensorstoreSession:
    arrays: dict[str, Any]
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        futures = {name: array[clip].read() for name, array in self.arrays.items()}
        return {name: future.result() for name, future in futures.items()}


@dataclass(frozen=True)
class Tensorstore:
    name: str = "tensorstore"
    module: str = "tensorstore"
    package: str = "tensorstore"
    how: str = "all arrays of a clip as futures, on the same store"
    own_files: bool = False

    def write(self, source: Source) -> None:
        """Nothing: it reads the store itself."""

    @contextmanager
    def open(self, source: Source) -> Iterator[TensorstoreSession]:
        import tensorstore

        limit = {"limit": source.threads}
        context = tensorstore.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit})
        arrays = {
            array.name: tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{source.store / array.name}/"}},
                context=context,
                open=True,
                read=True,
            ).result()
            for array in source.arrays
        }
        yield TensorstoreSession(arrays, source.shards())
