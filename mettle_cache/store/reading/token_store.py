"""Opening a store and reading tokens from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import torch

from mettle_cache.errors import StoreError, StoreUnfinishedError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.commits import NamedCommits
from mettle_cache.store.format.manifest import Manifest, manifest_so_far, read_manifest
from mettle_cache.store.format.metadata import StoreHead, load_head
from mettle_cache.store.format.ready import check_files, read_ready
from mettle_cache.store.format.tables import MANIFEST, SAMPLES, read_table
from mettle_cache.store.reading.buffers import BatchBuffer, block_runs
from mettle_cache.store.reading.clip_reader import CHECKS, ClipReader
from mettle_cache.store.reading.memory_pool import MemoryPool
from mettle_cache.store.reading.prefetch import READS_AHEAD, prefetch_batches
from mettle_cache.tokens import LayerTokens, TokenBatch


class TokenStore:
    """A finished store, open for reading; make one with :meth:`open`. Safe to use from several threads.

    Attributes
    ----------
    clips
        Ids in the order of the clip axis; a clip's index is its place here.
    samples
        Annotation rows; column ``clip`` holds ids.
    statuses
        ``ok``, ``failed`` or (in an unfinished store) ``pending``, by index.
    failed
        Clips that have no tokens, and why.
    key
        Everything that made the tokens what they are; ``key_digest`` is its short name.
    """

    def __init__(self, head: StoreHead, manifest: Manifest, samples: pa.Table, *, check: str) -> None:
        key = head.record.key
        self.path = head.path
        self.dataset = key.dataset
        self.segments = key.segments
        self.layers: tuple[LayerSpec, ...] = head.layers
        self.codec = key.codec
        self.vocabulary: Mapping[str, list[str]] = key.vocabulary
        self.key: Mapping[str, Any] = key.model_dump(mode="json")
        self.key_digest = head.record.key_digest
        self.provenance: Mapping[str, Any] = head.record.provenance
        self.samples = samples
        self.clips = manifest.ids
        self.statuses = manifest.statuses
        self.failed = {
            clip: error
            for clip, status, error in zip(manifest.ids, manifest.statuses, manifest.errors, strict=True)
            if status == "failed"
        }
        self.nbytes = head.clip_bytes * self.statuses.count("ok")
        self._head = head
        self._memory = MemoryPool()
        self._reader = ClipReader(NamedCommits(head, manifest.ids, manifest.commits), check=check)

    @classmethod
    def open(cls, path: Path | str, *, check: str = "first", allow_unfinished: bool = False) -> TokenStore:
        """Open a store.

        Parameters
        ----------
        check
            When chunks are compared with their committed checksums: the ``first`` time that this object reads them,
            ``always``, or ``never``.
        allow_unfinished
            Open a store without ``READY`` too: clips that are committed can be read, the others are refused.

        Raises
        ------
        StoreMissingError
            There is no store.
        StoreUnfinishedError
            The store has no ``READY``.
        StoreCorruptError
            Metadata are damaged.
        """
        if check not in CHECKS:
            raise UsageError(f"check '{check}' is none of {', '.join(CHECKS)}")
        head = load_head(Path(path))
        ready = read_ready(head)
        if ready is None and not allow_unfinished:
            raise StoreUnfinishedError(
                f"{path} is unfinished: it has no READY record",
                hint="run the same mettle extract command again; it goes on where the last run stopped",
            )
        check_files(head, ready)
        manifest = manifest_so_far(head) if ready is None else read_manifest(head, expected=ready.files[MANIFEST])
        samples = read_table(head.path / SAMPLES, expected=head.record.samples, store=head.path)
        return cls(head, manifest, samples, check=check)

    def read(self, clips: Sequence[int], layers: Sequence[str] | None = None) -> TokenBatch:
        """Tokens ``[B, T, N, *]`` of clips by index, in new memory; all layers, or those named.

        Raises
        ------
        UsageError
            An index or a layer that the store does not have.
        StoreError
            A clip without tokens; StoreCorruptError for damage.
        """
        names = self._layer_names(layers)
        for clip in clips:
            self._check_clip(clip)
        buffer = BatchBuffer(block_runs(self._head.layout, names), len(clips), self._assemble)
        for slot, clip in enumerate(clips):
            self._reader.read_clip(clip, buffer, slot)
        return buffer.batch(clips, names)

    def batches(
        self,
        order: Iterable[Sequence[int]],
        *,
        layers: Sequence[str] | None = None,
        threads: int = READS_AHEAD,
        depth: int = 2,
        device: str | torch.device = "cpu",
    ) -> Iterator[TokenBatch]:
        """Batches in the given order, read ahead by threads into reused memory.

        A batch is valid until the next one is asked for (on a GPU, for as long as it is kept). ``order`` lists clip
        indexes batch by batch and may be endless. ``depth`` buffers of a batch each are all the memory that is used,
        the one in use included, whatever the size of the store; it is page-locked for a GPU. It is kept for the next
        iteration until :meth:`close`.

        Raises
        ------
        UsageError, StoreError
            As :meth:`read`, before the first batch where it can be known, else in place of the batch.
        """
        if threads < 1 or depth < 1:
            raise UsageError(f"reading needs at least one thread and one buffer, not {threads} and {depth}")
        names = self._layer_names(layers)
        if isinstance(order, Sequence):
            for clip in {clip for clips in order for clip in clips}:
                self._check_clip(clip)
        runs = block_runs(self._head.layout, names)
        return prefetch_batches(
            self._read_clip,
            order,
            runs,
            names,
            self._assemble,
            threads=threads,
            depth=depth,
            device=torch.device(device),
            allocate=self._memory.take,
        )

    def clip_files(self, clip: int) -> tuple[Path, ...]:
        """The shards of one clip; for backups and benchmarks, which want files.

        Raises
        ------
        UsageError, StoreError
            As :meth:`read`.
        """
        self._check_clip(clip)
        return tuple(self._head.shard_paths(clip))

    def close(self) -> None:
        """Close the files and free the memory that are kept for the next read; the store can be read again."""
        self._reader.close()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_clip(self, clip: int, buffer: BatchBuffer, slot: int) -> None:
        self._check_clip(clip)
        self._reader.read_clip(clip, buffer, slot)

    def _assemble(self, _: str, arrays: Mapping[str, torch.Tensor]) -> LayerTokens:
        parts = {part: array for part, array in arrays.items() if part != "codes"}
        return LayerTokens(arrays["codes"], self._head.codec.format, parts)

    def _layer_names(self, layers: Sequence[str] | None) -> list[str]:
        known = [layer.name for layer in self.layers]
        if layers is None:
            return known
        unknown = [name for name in layers if name not in known]
        if unknown or not layers:
            raise UsageError(
                f"{self.path} has no layer {', '.join(unknown) or '(none named)'}",
                hint=f"it has {known[0]} to {known[-1]}; see: mettle info {self.path}",
            )
        return list(dict.fromkeys(layers))

    def _check_clip(self, clip: int) -> None:
        if not 0 <= clip < len(self.clips):
            raise UsageError(f"there is no clip {clip}; {self.path} has clips 0 to {len(self.clips) - 1}")
        name = self.clips[clip]
        if self.statuses[clip] == "failed":
            raise StoreError(f"clip {name} has no tokens: {self.failed[name]}", hint="leave it out; see store.failed")
        if self.statuses[clip] != "ok":
            raise StoreUnfinishedError(
                f"clip {name} is not committed in {self.path}", hint="run the same mettle extract command again"
            )
