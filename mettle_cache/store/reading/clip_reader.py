"""The direct reader: a clip's chunk bytes from its shards straight into their place in a batch.

No zarr on this path: chunks are uncompressed and at computed offsets, so a run of blocks is one ``preadv``. What is
read is checked against the commit record, which no damage to a shard can follow.
"""

from __future__ import annotations

import os

import numpy as np

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.checksum import crc32c, crc_bytes
from mettle_cache.store.format.commits import NamedCommits
from mettle_cache.store.format.files import open_regular, repair_hint
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.reading.buffers import BatchBuffer, BlockRun
from mettle_cache.store.reading.descriptors import DescriptorCache

CHECKS = ("first", "always", "never")
_MOST_VECTORS = os.sysconf("SC_IOV_MAX")
# what stays in the processor's cache between the read and the checksum
_PIECE_BYTES = 256 << 10


class ClipReader:
    """Reads clips of one store; safe to use from several threads.

    Parameters
    ----------
    commits
        The commits that the manifest names; read when a clip's chunks are checked.
    check
        When a chunk's checksum is compared: the ``first`` time that this reader reads it, ``always`` or ``never``.
    """

    def __init__(self, commits: NamedCommits, *, check: str) -> None:
        head = commits.head
        self.commits = commits
        self.check = check
        self._folder = str(head.path)
        self._files = DescriptorCache(open_regular)
        starts = np.cumsum([0, *(array.blocks for array in head.layout)])
        self._first_block = {array.name: int(start) for array, start in zip(head.layout, starts, strict=False)}
        # one byte a chunk of the store; a race between two threads costs one more check, never one less
        self._checked = np.zeros((len(commits.clips), int(starts[-1])), bool)
        # clips that need no look at their chunks any more
        self._clean: set[int] = set()

    def read_clip(self, clip: int, buffer: BatchBuffer, slot: int) -> None:
        """Read one clip into a slot.

        Raises
        ------
        StoreCorruptError
            A shard is missing, has another size, or holds other bytes than were committed; names clip, layer and file.
        """
        commit: CommitRecord | None = None
        trusted = self.check == "never" or clip in self._clean
        for run in buffer.runs:
            unchecked = not trusted and self._unchecked(clip, run)
            if unchecked:
                commit = commit or self.commits.read(clip)
            try:
                with self._files.lease(f"{self._folder}/{run.array.shard_path(clip)}") as descriptor:
                    if commit is None or not unchecked:
                        self._fill(descriptor, clip, run, buffer, slot)
                        continue
                    self._check_index(descriptor, clip, run)
                    for part in run.single_blocks:
                        self._fill_checked(descriptor, clip, part, buffer, slot, commit)
            except OSError as error:
                raise self._damaged(clip, run, error.strerror or str(error)) from error
        if commit is not None and self.check == "first" and self._checked[clip].all():
            self._clean.add(clip)

    def close(self) -> None:
        """Close the files that are kept open for the next read."""
        self._files.close()

    def _fill(self, descriptor: int, clip: int, run: BlockRun, buffer: BatchBuffer, slot: int) -> None:
        if read_fully(descriptor, buffer.targets(run, slot), run.offset, run.nbytes) != run.nbytes:
            raise self._cut_short(descriptor, clip, run)

    def _fill_checked(
        self, descriptor: int, clip: int, run: BlockRun, buffer: BatchBuffer, slot: int, commit: CommitRecord
    ) -> None:
        """Fill a run of one block, and compare its checksum."""
        chunk, checksum = buffer.targets(run, slot)
        value = 0
        for start in range(0, chunk.nbytes, _PIECE_BYTES):
            piece = chunk[start : start + _PIECE_BYTES]
            targets = [piece, checksum] if start + piece.nbytes == chunk.nbytes else [piece]
            wanted = sum(target.nbytes for target in targets)
            if read_fully(descriptor, targets, run.offset + start, wanted) != wanted:
                raise self._cut_short(descriptor, clip, run)
            value = crc32c(piece, value)
        self._compare(clip, run, value, checksum, commit)

    def _unchecked(self, clip: int, run: BlockRun) -> bool:
        """Whether a chunk of the run is still to be compared."""
        if self.check == "always":
            return True
        first = self._first_block[run.array.name]
        return not self._checked[clip, first + run.blocks.start : first + run.blocks.stop].all()

    def _check_index(self, descriptor: int, clip: int, run: BlockRun) -> None:
        array = run.array
        # one byte more than there is, so that a file that has grown shows it
        found = os.pread(descriptor, len(array.index) + 1, array.index_offset)
        if len(found) != len(array.index):
            raise self._cut_short(descriptor, clip, run)
        if found != array.index:
            raise self._damaged(clip, run, "the shard index is damaged")

    def _compare(self, clip: int, run: BlockRun, value: int, checksum: memoryview, commit: CommitRecord) -> None:
        array, block = run.array, run.blocks.start
        if f"{value:08x}" != commit.crc32c[array.name][block]:
            raise self._damaged(clip, run, f"the {array.part} are not those that were committed")
        if checksum != crc_bytes(value):
            raise self._damaged(clip, run, "the stored checksum is damaged")
        self._checked[clip, self._first_block[array.name] + block] = True

    def _cut_short(self, descriptor: int, clip: int, run: BlockRun) -> StoreCorruptError:
        size = os.fstat(descriptor).st_size
        return self._damaged(clip, run, f"{size:,} bytes instead of {run.array.shard_bytes:,}")

    def _damaged(self, clip: int, run: BlockRun, what: str) -> StoreCorruptError:
        layers = run.array.layers
        first, last = layers[run.blocks[0]].name, layers[run.blocks[-1]].name
        where = first if first == last else f"{first} to {last}"
        path = f"{self._folder}/{run.array.shard_path(clip)}"
        return StoreCorruptError(
            f"clip {self.commits.clips[clip]}, layer {where}: {path}: {what}", hint=repair_hint(self.commits.head.path)
        )


def read_fully(descriptor: int, targets: list[memoryview], offset: int, nbytes: int) -> int:
    """Fill ``targets``, ``nbytes`` in all, one after the other from ``offset`` on.

    Returns the bytes read, fewer only at the end of the file.
    """
    total = 0
    while total < nbytes:
        count = os.preadv(descriptor, targets[:_MOST_VECTORS], offset + total)
        total += count
        if count == 0 or total == nbytes:
            break
        # the kernel stops where it likes: a signal, 2 GiB, the limit on vectors
        while count >= targets[0].nbytes:
            count -= targets[0].nbytes
            targets = targets[1:]
        targets = [targets[0][count:], *targets[1:]]
    return total
