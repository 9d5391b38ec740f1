"""``mettle bench read``: reading tokens in random clip order, beside the raw-read limit of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mettle_cache.store.reader import TokenStore
from pipelines.benchmark.fullsize import bench_layers, store_bytes, write_bench_store
from pipelines.benchmark.limits import RawReader
from pipelines.benchmark.options import BenchOptions
from pipelines.benchmark.table import BenchTable, Goal, Row, measured
from pipelines.benchmark.timing import Samples, Variant, time_interleaved
from pipelines.benchmark.workplace import workplace
from pipelines.progress import Progress

CODECS = ("float16", "int8", "int4")
# what TokenStore.batches does when it is not told otherwise
THREADS = 3
BATCH = 4
WANTED = 0.85


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write a store in every codec, and time reading it."""
    clips = options.clips or 1
    layers = bench_layers(tiny=options.tiny)
    needed = sum(store_bytes(layers, codec, clips) for codec in CODECS)
    with workplace(options, needed) as place:
        for codec in CODECS:
            write_bench_store(place / f"{codec}.zarr", layers, codec=codec, clips=clips, progress=progress)
        subjects = [_Subject(place / f"{codec}.zarr", codec, clips) for codec in CODECS]
        variants = [variant for subject in subjects for variant in subject.variants()]
        seconds = time_interleaved(variants, repeats=options.repeats, progress=progress)
        denominators, rows, goals = [], [], []
        for subject in subjects:
            limit, *own = subject.rows(seconds)
            denominators.append(limit)
            rows += own
            goals.append(Goal(what=f"{own[0].variant}, of the limit", wanted=WANTED, found=own[0].ratio or 0.0))
    return BenchTable(
        bench="read",
        title="reading tokens in random clip order",
        rows=tuple(rows),
        denominators=tuple(denominators),
        goals=tuple(goals),
        repeats=options.repeats,
    )


@dataclass(frozen=True)
class _Subject:
    """One store, and the ways to read it that are compared."""

    path: Path
    codec: str
    clips: int

    def variants(self) -> Iterator[Variant]:
        order = random_batches(self.clips, BATCH)
        raw = RawReader(self._files([clip for batch in order for clip in batch]), THREADS)
        yield Variant(self._name("limit"), raw.read)
        for check in ("never", "first"):
            yield Variant(self._name(check), partial(read_store, self.path, order, check=check))

    def rows(self, seconds: dict[str, Samples]) -> Iterator[Row]:
        nbytes = sum(file.stat().st_size for file in self._files(range(self.clips))) / 1e9
        limit = measured(self._name("limit"), seconds[self._name("limit")].rate(nbytes), "GB/s")
        yield limit
        for check in ("never", "first"):
            yield measured(self._name(check), seconds[self._name(check)].rate(nbytes), "GB/s", of=limit)

    def _name(self, what: str) -> str:
        names = {
            "limit": f"raw reads, {self.codec}",
            "never": f"mettle, {self.codec}",
            "first": f"mettle, {self.codec}, every checksum compared",
        }
        return names[what]

    def _files(self, clips: Sequence[int]) -> list[Path]:
        store = TokenStore.open(self.path)
        return [path for clip in clips for path in store.clip_files(clip)]


def random_batches(clips: int, size: int, *, seed: int = 0) -> list[list[int]]:
    """Every clip once, in random order, in batches of ``size``."""
    order: list[int] = np.random.default_rng(seed).permutation(clips).tolist()
    return [order[start : start + size] for start in range(0, clips, size)]


def read_store(path: Path, order: Sequence[Sequence[int]], *, check: str) -> int:
    """Open a store and read batches of it as training does; returns the bytes of the tokens."""
    with TokenStore.open(path, check=check) as store:
        return sum(batch.nbytes for batch in store.batches(order, threads=THREADS))
