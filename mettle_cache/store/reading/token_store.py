"""Opening a store and reading tokens from it."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa
import torch

from mettle_cache.companions import CompanionFile
from mettle_cache.errors import StoreError, StoreKeyError, StoreUnfinishedError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.paths import command_line
from mettle_cache.store.companions import find_companions
from mettle_cache.store.format.codecs import StaticArrays
from mettle_cache.store.format.digests import digest_of
from mettle_cache.store.format.files import COMPANIONS
from mettle_cache.store.format.intact import check_files
from mettle_cache.store.format.manifest import Manifest, NamedCommits, open_manifest
from mettle_cache.store.format.metadata import (
    StoreMetadata,
    load_metadata,
    read_ready,
)
from mettle_cache.store.reading.assembling import Assembler
from mettle_cache.store.reading.buffers import BatchBuffer, SpareMemory, block_runs
from mettle_cache.store.reading.clip_reader import CHECKS, ClipReader
from mettle_cache.store.reading.disk_speed import READS_AHEAD
from mettle_cache.store.reading.prefetch import prefetch_batches
from mettle_cache.store.reading.resident import ReadClip, ResidentTokens, resident_bytes
from mettle_cache.tokens import LayerTokens, TokenBatch

if TYPE_CHECKING:
    import zarr


class LabelledTask(Protocol):
    """The part of a task (:class:`mettle_cache.tasks.protocol.Task`) that :meth:`TokenStore.labels` uses."""

    def targets(self, rows: Sequence[int]) -> torch.Tensor:
        """Targets of samples, by position in the sample table, leading axis B."""
        ...


class TokenStore:
    """A finished store, open for reading; make one with :meth:`open`. Safe to use from several threads.

    It is a collection of clips: ``len(store)``, ``"id" in store``, iteration over ids, and ``store[clip]`` for the
    tokens of one clip, by id or index. Another process that it is sent to opens the same store there.

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
    made_of
        The digest of the media that each clip with tokens was made of, by index.
    finished
        Whether the store has its ``READY``.
    key
        Everything that made the tokens what they are; ``key_digest`` is its short name.
    content_digest
        The digest of all commits, and so of all tokens: another one when clips were extracted again or added since.
    """

    def __init__(
        self, metadata: StoreMetadata, manifest: Manifest, samples: pa.Table, *, check: str, finished: bool = True
    ) -> None:
        key = metadata.record.key
        self.path = metadata.path
        self.dataset = key.dataset
        self.segments = key.segments
        self.layers: tuple[LayerSpec, ...] = metadata.layers
        self.codec = key.codec
        self.vocabulary: Mapping[str, list[str]] = key.vocabulary
        self.key: Mapping[str, Any] = key.model_dump(mode="json")
        self.key_digest = metadata.record.key_digest
        self.provenance: Mapping[str, Any] = metadata.record.provenance
        self.samples = samples
        self.computed: None = None  # a store has its tokens: see TokenSource
        self.content_digest = digest_of(list(manifest.commits))
        self.clips = manifest.ids
        self.statuses = manifest.statuses
        self.failed = manifest.failed
        self.made_of = manifest.made_of
        self.finished = finished
        self.nbytes = metadata.clip_bytes * self.statuses.count("ok")
        self._metadata = metadata
        self._index = {clip: number for number, clip in enumerate(manifest.ids)}
        self._assembler = Assembler(metadata)
        self._memory = SpareMemory()
        stored = (clip for clip, status in enumerate(manifest.statuses) if status == "ok")
        commits = NamedCommits(metadata, manifest.ids, manifest.commits)
        self._reader = ClipReader(commits, stored, check=check, finished=finished)

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
        metadata = load_metadata(Path(path))
        ready = read_ready(metadata)
        if ready is None and not allow_unfinished:
            raise StoreUnfinishedError(
                f"{path} is unfinished: it has no READY record",
                hint="run the same mettle extract or recode command again; it goes on where the last run stopped",
            )
        check_files(metadata, ready)
        manifest = open_manifest(metadata, ready)
        samples = metadata.read_samples()
        return cls(metadata, manifest, samples, check=check, finished=ready is not None)

    def __len__(self) -> int:
        """The number of clips, those without tokens included."""
        return len(self.clips)

    def __iter__(self) -> Iterator[str]:
        return iter(self.clips)

    def __contains__(self, clip: object) -> bool:
        return clip in self._index

    def __getitem__(self, clip: str | int) -> Mapping[str, LayerTokens]:
        """One clip's tokens ``[T, N, D]`` by layer name, in new memory; raises as :meth:`read`."""
        return {name: tokens[0] for name, tokens in self.read([clip]).layers.items()}

    def __repr__(self) -> str:
        without = sum(status != "ok" for status in self.statuses)
        lacking = f" ({without} without tokens)" if without else ""
        unfinished = "" if self.finished else ", unfinished"
        return (
            f"<TokenStore {self.path}: {self.dataset}, {len(self):,} clips{lacking} of {self.segments} segments, "
            f"{len(self.layers)} layers ({self.layers[0].name} to {self.layers[-1].name}) in {self.codec}, "
            f"{self.nbytes:,} bytes{unfinished}>"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path.absolute(), self._identity(), self._reader.check, not self.finished)

    def read(self, clips: Sequence[str | int], layers: Sequence[str] | None = None) -> TokenBatch:
        """Tokens ``[B, T, N, *]`` of clips by id or index, in new memory; all layers, or those named.

        Raises
        ------
        UsageError
            An id, an index or a layer that the store does not have.
        StoreError
            A clip without tokens; StoreCorruptError for damage.
        """
        names = self.layer_names(layers)
        if isinstance(clips, str) or not isinstance(clips, Iterable):
            raise UsageError(f"read() takes several clips, not the one {clips!r}", hint=f"store.read([{clips!r}])")
        numbers = [self.index(clip) for clip in clips]
        for number in numbers:
            self._check_clip(number)
        buffer = BatchBuffer(block_runs(self._metadata.layout, names), len(numbers), self._assembler.tokens)
        for slot, number in enumerate(numbers):
            self._reader.read_clip(number, buffer, slot)
        return buffer.batch(numbers, names)

    def index(self, clip: str | int) -> int:
        """A clip's place on the clip axis, from its id, or from the place itself.

        Raises
        ------
        UsageError
            There is no such clip.
        """
        if isinstance(clip, str):
            if clip in self._index:
                return self._index[clip]
            near = difflib.get_close_matches(clip, self.clips, n=1)
            raise UsageError(
                f"there is no clip '{clip}' in {self.path}",
                hint=f"did you mean '{near[0]}'?" if near else "store.clips lists them",
            )
        try:
            number = operator.index(clip)
        except TypeError:
            number = None
        if number is None or isinstance(clip, bool):
            raise UsageError(f"a clip is named by its id or index, not by {clip!r}", hint="store.clips lists the ids")
        if not 0 <= number < len(self.clips):
            raise UsageError(f"there is no clip {number}; {self.path} has clips 0 to {len(self.clips) - 1}")
        return number

    def layer_names(self, layers: Sequence[str] | None = None) -> list[str]:
        """The names of all layers, or those given without repetition. Raises UsageError for others."""
        known = [layer.name for layer in self.layers]
        if layers is None:
            return known
        unknown = [name for name in layers if name not in known]
        if unknown or not layers:
            raise UsageError(
                f"{self.path} has no layer {', '.join(unknown) or '(none named)'}",
                hint=f"it has {known[0]} to {known[-1]}; see: {command_line('mettle info', self.path)}",
            )
        return list(dict.fromkeys(layers))

    def labels(self, task: LabelledTask) -> torch.Tensor:
        """The targets of all samples, in the order of :attr:`samples`, as a task object that is bound to them gives
        them: its own shape behind the leading axis."""
        return task.targets(range(self.samples.num_rows))

    def to_zarr(self, *, decoded: bool = False) -> zarr.Group:
        """The store as a read-only group of zarr-python, for tools that know nothing of it.

        Its arrays hold what is stored, uint8 ``[clip, block, byte]`` (in format 1 codes, scales and zeros of their own
        types), or with ``decoded`` float32 tokens ``[clip, block, T, N, D]``, one array a stage: those of
        :meth:`LayerTokens.floats() <mettle_cache.tokens.LayerTokens.floats>`. A chunk is a block of a clip; it is read
        and decoded when it is asked for, and its checksum compared with the commit record as in :meth:`read`. Clips lie
        in the order of :attr:`clips`. xarray and dask take the group's store::

            tokens = store.to_zarr(decoded=True)
            tokens["visual/s3"][0, 4]  # [T, N, D] of the fifth stored block
            dask.array.from_zarr(tokens["visual/s3"])
            xarray.open_zarr(tokens.store, group="visual", consolidated=False)

        Chunks of clips that have no tokens raise StoreError instead of being read as fill values, and damaged ones
        StoreCorruptError.

        Raises
        ------
        StoreUnfinishedError
            The store is not finished.
        """
        if not self.finished:
            raise StoreUnfinishedError(
                f"{self.path} is unfinished, and zarr would read what is missing as zeros",
                hint="run the same mettle extract or recode command again; it goes on where the last run stopped",
            )
        from mettle_cache.store.reading.zarr_view import open_zarr

        return open_zarr(self, self._metadata, decoded=decoded)

    def batches(
        self,
        order: Iterable[Sequence[int]],
        *,
        layers: Sequence[str] | None = None,
        threads: int = READS_AHEAD,
        depth: int = 2,
        device: str | torch.device = "cpu",
        resident: ResidentTokens | None = None,
    ) -> Iterator[TokenBatch]:
        """Batches in the given order, read ahead by threads into reused memory.

        A batch is valid until the next one is asked for (on a GPU, for as long as it is kept). ``order`` lists clip
        indexes batch by batch and may be endless. ``depth`` buffers of a batch each are all the memory that is used,
        the one in use included, whatever the size of the store; it is page-locked for a GPU. It is kept for the next
        iteration until :meth:`close`. What is in ``resident``, of :meth:`keep`, is not read again.

        Raises
        ------
        UsageError, StoreError
            As :meth:`read`, before the first batch where it can be known, else in place of the batch.
        """
        if threads < 1 or depth < 1:
            raise UsageError(f"reading needs at least one thread and one buffer, not {threads} and {depth}")
        names = self.layer_names(layers)
        if isinstance(order, Sequence):
            for clip in {clip for clips in order for clip in clips}:
                self._check_clip(clip)
        if resident is not None and resident.names != names:
            raise UsageError("the tokens that stay are those of other layers", hint="keep(clips, layers) of the same")
        runs = block_runs(self._metadata.layout, names)

        def read(order: Iterable[Sequence[int]], read_clip: ReadClip) -> Iterator[TokenBatch]:
            options: dict[str, Any] = {"threads": threads, "depth": depth, "device": torch.device(device)}
            assemble, allocate = self._assembler.tokens, self._memory.take
            return prefetch_batches(read_clip, order, runs, names, assemble, allocate=allocate, **options)

        return read(order, self._read_clip) if resident is None else resident.batches(order, read, self._read_clip)

    def keep(
        self, clips: Iterable[int], layers: Sequence[str] | None = None, device: torch.device | None = None
    ) -> ResidentTokens:
        """Room for clips whose tokens stay when :meth:`batches` has read them, on ``device`` or in host memory.

        Raises
        ------
        UsageError
            As :meth:`read`.
        OSError, torch.OutOfMemoryError
            There is no such room; :meth:`resident_bytes` says what it takes.
        """
        names = self.layer_names(layers)
        runs = block_runs(self._metadata.layout, names)
        return ResidentTokens(runs, names, clips, self._assembler.tokens, device)

    def resident_bytes(self, clips: int, layers: Sequence[str] | None = None) -> int:
        """What :meth:`keep` takes for so many clips."""
        return resident_bytes(block_runs(self._metadata.layout, self.layer_names(layers)), clips)

    @property
    def companion_folder(self) -> Path | None:
        """Where what is computed from the tokens may be kept beside them; None for a store that can have nothing there:
        an unfinished one, or one of format 1."""
        return self.path / COMPANIONS if self.finished and self._metadata.format > 1 else None

    @property
    def static(self) -> StaticArrays:
        """The codec's static arrays by layer name and part, on the CPU; none for most codecs.

        Raises
        ------
        StoreCorruptError
            They are damaged.
        """
        return self._assembler.static(torch.device("cpu"))

    @property
    def companions(self) -> Mapping[str, CompanionFile]:
        """What lies beside the tokens for methods that want it, by file name; nothing is opened before it is used."""
        return find_companions(self.path, self._metadata.record.key_digest)

    def clip_files(self, clip: int) -> tuple[Path, ...]:
        """The shards of one clip; for backups and benchmarks, which want files.

        Raises
        ------
        UsageError, StoreError
            As :meth:`read`.
        """
        self._check_clip(clip)
        return tuple(self._metadata.shard_paths(clip))

    def close(self) -> None:
        """Close files and free memory that are kept for the next read; the store can still be read."""
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

    def _identity(self) -> str:
        """The digests of the key and of the commits, which tell this store from another one at the same path."""
        ready = read_ready(self._metadata)
        return digest_of([self.key_digest, ready.commits if ready else None])

    def _check_clip(self, clip: int) -> None:
        name = self.clips[self.index(clip)]
        if self.statuses[clip] == "failed":
            raise StoreError(f"clip {name} has no tokens: {self.failed[name]}", hint="leave it out; see store.failed")
        if self.statuses[clip] != "ok":
            raise StoreUnfinishedError(
                f"clip {name} is not committed in {self.path}", hint="run the same mettle extract command again"
            )


def _reopen(path: Path, identity: str, check: str, allow_unfinished: bool) -> TokenStore:
    """Open a pickled store again."""
    store = TokenStore.open(path, check=check, allow_unfinished=allow_unfinished)
    if store._identity() != identity:
        raise StoreKeyError(
            f"{path} is another store than the one that was sent here", hint="open the store in this process"
        )
    return store
