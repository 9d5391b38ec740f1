"""Readers of a store behind one interface, so that they can be compared: ours, and those of other libraries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark.baselines.protocol import Baseline, ClipArrays, Session, Source
from mettle_cache.pipelines.benchmark.limits import FileRange
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading.disk_speed import READS_AHEAD
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.shards import stored_arrays
from mettle_cache.tokens import LayerTokens

# what TokenStore.batches does when it is not told otherwise
THREADS = READS_AHEAD
# what the published recipes train on at once; and where a reader starts with new memory, which must not weigh
BATCH, COLD_BATCH = 16, 4


class Delivery(Protocol):
    """Some clips' tokens in ordinary memory, valid until the next delivery."""

    def clips(self) -> Iterator[tuple[int, Mapping[str, StoredArrays]]]:
        """Each clip and its arrays by layer; looked at before timing, never while it runs."""
        ...


# a layer's codes and their parts by name
StoredArrays = Mapping[str, Tensor]
Deliver = Callable[[Sequence[int]], Iterator[Delivery]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A way to read one store. ``files`` is what it reads; ``open`` gives the function that is timed."""

    name: str
    note: str
    store: Path
    files: Callable[[], Sequence[Path]]
    open: Callable[[], AbstractContextManager[Deliver]]


def our_reader(
    name: str, path: Path, *, check: str, batch: int = BATCH, device: str = "cpu", resident: bool = False
) -> Reader:
    """``TokenStore.batches`` as training uses it, onto ``device``; ``batch`` clips at once.

    With ``resident`` all tokens stay in host memory, where they are before anything is timed.
    """

    @contextmanager
    def open_reader() -> Iterator[Deliver]:
        with TokenStore.open(path, check=check) as store:
            _ = store.static  # once a run, not once a clip: a few clips must not pay for it

            stored = [clip for clip, status in enumerate(store.statuses) if status == "ok"]
            kept = store.keep(stored) if resident else None
            for _ in store.batches([[clip] for clip in stored], resident=kept) if resident else ():
                pass

            def deliver(order: Sequence[int]) -> Iterator[Delivery]:
                batches = [list(order[start : start + batch]) for start in range(0, len(order), batch)]
                for tokens in store.batches(batches, threads=THREADS, device=device, resident=kept):
                    yield _Batch(tokens.layers, tokens.clips)
                if device != "cpu":
                    torch.cuda.synchronize(device)

            yield deliver

    def files() -> Sequence[Path]:
        with TokenStore.open(path) as store:
            stored = [clip for clip, status in enumerate(store.statuses) if status == "ok"]
        return list(dict.fromkeys(part.path for part in token_ranges(path, stored)))

    note = f"TokenStore.batches, {THREADS} threads{', resident' if resident else ''}"
    return Reader(name=name, note=note, store=path, files=files, open=open_reader)


def clip_slots(arrays: Sequence[ArrayLayout]) -> list[ClipArrays]:
    """Memory for as many clips as our ring holds, touched once, so that no page of it is new while reading is timed."""
    return [
        {array.name: np.ones((array.blocks, array.chunk_bytes), np.uint8) for array in arrays} for _ in range(2 * BATCH)
    ]


def baseline_reader(baseline: Baseline, source: Source, slots: Sequence[ClipArrays]) -> Reader:
    """A library, reading whole clips ahead in threads into ``slots``; its own files are written already."""

    @contextmanager
    def open_reader() -> Iterator[Deliver]:
        with baseline.open(source) as session, ThreadPoolExecutor(source.threads) as executor:
            yield lambda order: _read_ahead(session, order, slots, executor, source.arrays)

    def files() -> Sequence[Path]:
        with baseline.open(source) as session:
            return session.files

    return Reader(name=baseline.name, note=baseline.how, store=source.store, files=files, open=open_reader)


def random_order(clips: int, *, seed: int = 0) -> list[int]:
    """Every clip once, in random order."""
    order: list[int] = np.random.default_rng(seed).permutation(clips).tolist()
    return order


def token_ranges(path: Path, order: Sequence[int]) -> list[FileRange]:
    """Where the tokens of these clips of a store lie, clip after clip: a piece of a shard for each stage."""
    metadata = load_metadata(path)
    return [
        FileRange(path / array.shard_path(array.shard(clip)), array.chunk_offset(clip, 0), array.clip_bytes)
        for clip in order
        for array in metadata.layout
    ]


def consume(deliver: Deliver, order: Sequence[int]) -> None:
    """Have every clip delivered, without looking at any; this is what is timed."""
    for _ in deliver(order):
        pass


def check_delivery(reader: Reader, order: Sequence[int]) -> int:
    """Compare everything that a reader delivers with :meth:`TokenStore.read`; returns the bytes of the tokens.

    Raises
    ------
    RunError
        A clip is missing, is out of order, or has other tokens.
    """
    nbytes, seen = 0, []
    with TokenStore.open(reader.store) as store, reader.open() as deliver:
        for delivery in deliver(order):
            for clip, layers in delivery.clips():
                seen.append(clip)
                for name, expected in store.read([clip]).layers.items():
                    if not same_arrays(layers[name], stored_arrays(expected[0])):
                        raise RunError(f"{reader.name} delivers other tokens than clip {clip} has in layer {name}")
                    nbytes += expected.nbytes
    if seen != list(order):
        raise RunError(f"{reader.name} delivers other clips than were asked for")
    return nbytes


@dataclass(frozen=True)
class _Batch:
    layers: Mapping[str, LayerTokens]
    order: tuple[int, ...]

    def clips(self) -> Iterator[tuple[int, Mapping[str, StoredArrays]]]:
        for slot, clip in enumerate(self.order):
            yield clip, {name: stored_arrays(tokens[slot].to("cpu")) for name, tokens in self.layers.items()}


@dataclass(frozen=True)
class _Clip:
    clip: int
    values: ClipArrays
    arrays: Sequence[ArrayLayout]

    def clips(self) -> Iterator[tuple[int, Mapping[str, StoredArrays]]]:
        parts: dict[str, dict[str, Tensor]] = {}
        for array in self.arrays:
            ends = np.cumsum(array.field_bytes)
            for block, layer in enumerate(array.layers):
                # a copy, because some libraries give read-only memory, which a tensor may not share
                fields = np.split(np.array(self.values[array.name][block]), ends[:-1])
                parts[layer.name] = {
                    field.part: torch.from_numpy(values.view(field.dtype).reshape(field.shape))
                    for field, values in zip(array.fields, fields, strict=True)
                }
        yield self.clip, parts


def _read_ahead(
    session: Session,
    order: Sequence[int],
    slots: Sequence[ClipArrays],
    executor: ThreadPoolExecutor,
    arrays: Sequence[ArrayLayout],
) -> Iterator[Delivery]:
    """Clips in order, as many under way as there are slots; a slot is filled again when the next clip is asked for."""
    free, under_way = deque(slots), deque[tuple[int, ClipArrays, Future[ClipArrays]]]()
    waiting = iter(order)
    while True:
        while free and (clip := next(waiting, None)) is not None:
            slot = free.popleft()
            under_way.append((clip, slot, executor.submit(session.read_clip, clip, slot)))
        if not under_way:
            return
        clip, slot, read = under_way.popleft()
        yield _Clip(clip, read.result(), arrays)
        free.append(slot)


def same_arrays(delivered: StoredArrays, expected: StoredArrays) -> bool:
    """Whether codes, scales and zeros are equal to the bit."""
    return delivered.keys() == expected.keys() and all(
        torch.equal(array, expected[part]) for part, array in delivered.items()
    )
