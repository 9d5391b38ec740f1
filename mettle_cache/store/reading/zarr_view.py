"""A finished store as a read-only group of zarr-python, in which nothing that is missing is read as zeros."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from mettle_cache.errors import StoreCorruptError, StoreError
from mettle_cache.store.format.files import repair_hint
from mettle_cache.store.format.metadata import ROOT


def open_zarr(path: Path, failed: Mapping[str, str], clips: Sequence[str]) -> zarr.Group:
    """The group at ``path``; ``failed`` says why clips have no tokens, ``clips`` holds the ids of the clip axis."""
    return zarr.open_group(_CommittedFiles(path, failed, clips), mode="r", zarr_format=3)


class _CommittedFiles(LocalStore):
    """Files of a store; a shard that is not there is an error, where zarr would take its fill value."""

    def __init__(self, root: Path, failed: Mapping[str, str], clips: Sequence[str]) -> None:
        super().__init__(root, read_only=True)
        self._failed = failed
        self._clips = clips

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = await super().get(key, prototype, byte_range)
        name = key.rpartition("/")[2]
        if data is None and name.startswith("c."):
            clip = self._clips[int(name.split(".")[1])]
            if clip in self._failed:
                raise StoreError(f"clip {clip} has no tokens: {self._failed[clip]}", hint="leave it out")
            raise StoreCorruptError(f"clip {clip}: {self.root / key} is missing", hint=repair_hint(self.root))
        return data

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What zarr has in a folder: our records beside the groups would each be a warning of a foreign file."""
        async for name in super().list_dir(prefix):
            if prefix or name == ROOT or (self.root / name / ROOT).is_file():
                yield name
