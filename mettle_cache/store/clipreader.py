"""The direct reader: a clip's chunk bytes from its shards straight into their place in a batch.

No zarr on this path: chunks are uncompressed and at computed offsets, so a run of blocks is one ``preadv``. What is
read is checked against the commit record, which no damage to a shard can follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.buffers import BatchBuffer, BlockRun
from mettle_cache.store.files import open_regular, repair_hint
from mettle_cache.store.head import StoreHead
from mettle_cache.store.layout import crc32c
from mettle_cache.store.records import CommitRecord

CHECKS = ("first", "always", "never")


class ClipReader:
    """Reads clips of one store; safe to use from several threads.

    Parameters
    ----------
    commit_of
        The commit record of a clip.
    check
        When a chunk's checksum is compared: the ``first`` time that this reader reads it, ``always`` or ``never``.
    """

    def __init__(
        self, head: StoreHead, clips: Sequence[str], commit_of: Callable[[int], CommitRecord], *, check: str
    ) -> None:
        self.head = head
        self.clips = clips
        self.check = check
        self._commit_of = commit_of
        starts = np.cumsum([0, *(array.blocks for array in head.layout)])
        self._first_block = {array.name: int(start) for array, start in zip(head.layout, starts, strict=False)}
        # one byte a chunk of the store; a race between two threads costs one more check, never one less
        self._checked = np.zeros((len(clips), int(starts[-1])), bool)

    def read_clip(self, clip: int, buffer: BatchBuffer, slot: int) -> None:
        """Read one clip into a slot.

        Raises
        ------
        StoreCorruptError
            A shard is missing, has another size, or holds other bytes than were committed; names clip, layer and file.
        """
        commit: CommitRecord | None = None
        for run in buffer.runs:
            self._read_run(clip, run, buffer.targets(run, slot))
            unchecked = self._unchecked(clip, run)
            if unchecked:
                commit = commit or self._commit_of(clip)
                for block in unchecked:
                    self._check(clip, run, block, buffer.chunk(run.array, block, slot), commit)

    def _read_run(self, clip: int, run: BlockRun, targets: list[memoryview]) -> None:
        path = self.head.path / run.array.shard_path(clip)
        try:
            descriptor = open_regular(path)
            try:
                size = os.fstat(descriptor).st_size
                if size != run.array.shard_bytes:
                    raise self._damaged(clip, run, f"{size:,} bytes instead of {run.array.shard_bytes:,}")
                if read_fully(descriptor, targets, run.offset) != run.nbytes:
                    raise self._damaged(clip, run, "it became shorter while it was read")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._damaged(clip, run, error.strerror or str(error)) from error

    def _unchecked(self, clip: int, run: BlockRun) -> list[int]:
        if self.check == "never":
            return []
        if self.check == "always":
            return list(run.blocks)
        first = self._first_block[run.array.name]
        return [block for block in run.blocks if not self._checked[clip, first + block]]

    def _check(self, clip: int, run: BlockRun, block: int, chunk: memoryview, commit: CommitRecord) -> None:
        if f"{crc32c(chunk):08x}" != commit.crc32c[run.array.name][block]:
            layer = run.array.layers[block].name
            raise self._damaged(clip, run, f"the {run.array.part} are not those that were committed", layer)
        self._checked[clip, self._first_block[run.array.name] + block] = True

    def _damaged(self, clip: int, run: BlockRun, what: str, layer: str = "") -> StoreCorruptError:
        names = [run.array.layers[block].name for block in run.blocks]
        where = layer or (names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
        path = self.head.path / run.array.shard_path(clip)
        return StoreCorruptError(
            f"clip {self.clips[clip]}, layer {where}: {path}: {what}", hint=repair_hint(self.head.path)
        )


def read_fully(descriptor: int, targets: list[memoryview], offset: int) -> int:
    """Fill ``targets`` one after the other from ``offset`` on; the bytes read, fewer only at the end of the file."""
    total = 0
    while targets:
        count = os.preadv(descriptor, targets, offset + total)
        if count == 0:
            break
        total += count
        while targets and count >= targets[0].nbytes:
            count -= targets[0].nbytes
            targets = targets[1:]
        if count:
            targets = [targets[0][count:], *targets[1:]]
    return total
