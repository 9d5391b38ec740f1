"""zarr-python: ``array[clip]``, its own thread pool behind an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Source


@dataclass(frozen=True)
class ZarrSession:
    """Open arrays of one store."""

    arrays: dict[str, Any]
    files: Sequence[Path]

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        return {name: np.asarray(array[clip]) for name, array in self.arrays.items()}


@dataclass(frozen=True)
class ZarrPython:
    name: str = "zarr-python"
    module: str = "zarr"
    package: str = "zarr"
    how: str = "array[clip] on the same store"
    own_files: bool = False

    def write(self, source: Source) -> None:
        """Nothing: it reads the store itself."""

    @contextmanager
    def open(self, source: Source) -> Iterator[ZarrSession]:
        import zarr

        with zarr.config.set({"threading.max_workers": source.threads}):
            yield open_arrays(source)


def open_arrays(source: Source) -> ZarrSession:
    """The store's arrays through zarr-python's API, with the codec pipeline that is configured now."""
    import zarr

    group = zarr.open_group(str(source.store), mode="r")
    return ZarrSession({array.name: group[array.name] for array in source.arrays}, source.shards())
