"""The interface of a baseline: how to make its files, and how to read one clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mettle_cache.store.format.layout import ArrayLayout

# a clip: array name (`visual/s3`) to its chunks, uint8 `[blocks, chunk_bytes]`
ClipArrays = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tokens that a baseline reads, and how.

    Attributes
    ----------
    store, arrays, clips
        A finished store, its arrays, and its number of clips.
    folder
        Empty; for files of the library's own.
    threads
        Reads in flight.
    """

    store: Path
    arrays: Sequence[ArrayLayout]
    clips: int
    folder: Path
    threads: int

    def shard(self, array: ArrayLayout, clip: int) -> Path:
        """The file that holds a clip's chunks of an array."""
        return self.store / array.shard_path(array.shard(clip))

    def shards(self) -> list[Path]:
        """Every file of the store that holds tokens."""
        return [self.store / array.shard_path(shard) for array in self.arrays for shard in range(array.shards)]

    def stored_clip(self, clip: int) -> dict[str, NDArray[np.uint8]]:
        """One clip as it is stored, without the checksums, to make a library's own files of."""
        arrays: dict[str, NDArray[np.uint8]] = {}
        for array in self.arrays:
            start = array.chunk_offset(clip, 0)
            raw = np.fromfile(self.shard(array, clip), np.uint8, count=array.clip_bytes, offset=start)
            arrays[array.name] = np.ascontiguousarray(raw.reshape(array.blocks, -1)[:, : array.chunk_bytes])
        return arrays


class Session(Protocol):
    """An open reader; ``read_clip`` is called from several threads at once."""

    @property
    def files(self) -> Sequence[Path]:
        """The files with the tokens, to be dropped from the page cache."""
        ...

    def read_clip(self, clip: int, memory: ClipArrays) -> ClipArrays:
        """One clip in ordinary memory: ``memory`` filled, where the library can, else arrays of its own."""
        ...


class Baseline(Protocol):
    """A library. ``module`` must be importable, ``package`` is its name for pip, ``how`` says how it is used.

    ``own_files`` says whether it needs files of its own, as large as the store.
    """

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def how(self) -> str: ...
    @property
    def own_files(self) -> bool: ...

    def write(self, source: Source) -> None:
        """Write the clips as the library's own files into ``source.folder``, if it needs them."""
        ...

    def open(self, source: Source) -> AbstractContextManager[Session]:
        """Open what :meth:`write` wrote, or the store."""
        ...
