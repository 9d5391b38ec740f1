"""``mettle bench read``: reading tokens in random clip order, beside the raw-read limit of the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mettle_cache.devices import choose_device
from mettle_cache.pipelines.benchmark.baselines.protocol import Baseline, ClipArrays, Source
from mettle_cache.pipelines.benchmark.baselines.registry import BASELINES, is_installed
from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.limits import FileRange, RawReader, cached_fraction, evict
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.readers import (
    BATCH,
    COLD_BATCH,
    THREADS,
    Deliver,
    Reader,
    baseline_reader,
    check_delivery,
    clip_slots,
    consume,
    our_reader,
    random_order,
    token_ranges,
)
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.timing import TimedVariant, time_interleaved
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading.token_store import TokenStore

CODEC_NAMES = ("float16", "int8", "int4", "klt1.5")
BASELINES_CODEC = "int8"
# of the limit, by when checksums are compared
GOALS = {"never": 0.9, "always": 0.75}
# when a chunk's checksum is compared (always: what any first read costs), and what that is called in the table
CHECKS = {"never": "", "always": ", checksums"}
# warm passes over a store in one measurement of ours: new memory must not weigh more than it does in an epoch; more of
# a smaller store, because what is over in no time is hit by a busy machine or is not
PASSES = 4
# a page or two of a file may always stay, or go
FEW_PAGES = 0.02

NOTES = (
    f"warm: the page cache holds everything; ours and raw reads take the store {PASSES} times in a measurement, a "
    "smaller one than that in int8 as often as makes the same bytes",
    "cold: the files were dropped from the page cache (posix_fadvise), opened again and read once; a virtual disk may "
    "keep a cache of its own, which counts as the disk",
)


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write a store in every codec, check what each reader delivers, and time them all, warm and cold."""
    clips = options.clips or 1
    layers = bench_layers(tiny=options.tiny)
    sizes = {codec: store_bytes(layers, codec, clips) for codec in CODEC_NAMES}
    copies = sum(baseline.own_files for baseline in BASELINES if is_installed(baseline))
    with bench_folder(options, sum(sizes.values()) + copies * sizes[BASELINES_CODEC]) as place:
        for codec in CODEC_NAMES:
            write_bench_store(place / codec, layers, codec=codec, clips=clips, progress=progress)
        progress.note("comparing what every reader delivers with TokenStore.read")
        device = str(choose_device(options.device))
        baselines, absent = _baselines(place, clips)
        opening = [note for codec in CODEC_NAMES if (note := _static_note(place / codec, codec))]
        warm, cold = ReadRows(), ReadRows()
        # one codec after the other: what every reader keeps for its batches would not fit side by side
        for codec in CODEC_NAMES:
            others = baselines if codec == BASELINES_CODEC else []
            passes = max(PASSES, PASSES * sizes["int8"] // sizes[codec])
            variants = [*_ours(place / codec, codec, clips, device, BATCH, passes), *others]
            warm += time_readers(variants, cold=False, repeats=options.repeats, progress=progress)
            variants = [*_ours(place / codec, codec, clips, device, COLD_BATCH), *others]
            variants = [variant for variant in variants if variant.reader is not None or variant.is_limit]
            cold += time_readers(variants, cold=True, repeats=options.repeats, progress=progress)
    return BenchTable(
        bench="read",
        title=f"reading tokens in random clip order, {clips} clips, batches of {BATCH} (cold: {COLD_BATCH})",
        rows=(*warm.rows, *cold.rows, *absent),
        denominators=(*warm.limits, *cold.limits),
        goals=_goals(warm.rows),
        notes=(*NOTES, *opening, *warm.notes, *cold.notes),
        repeats=options.repeats,
    )


def our_name(codec: str, check: str = "never") -> str:
    """What our reader is called in the table."""
    return f"mettle, {codec}{CHECKS[check]}"


def _static_note(path: Path, codec: str) -> str:
    """What a codec's static arrays cost, which a run reads once and the rates leave out; empty where it has none."""
    with TokenStore.open(path) as store:
        started = time.perf_counter()
        nbytes = sum(array.nbytes for arrays in store.static.values() for array in arrays.values())
        seconds = time.perf_counter() - started
    if not nbytes:
        return ""
    return (
        f"{codec}: its static arrays, {format_bytes(nbytes)}, are read and checked once a run, here in {seconds:.2f} s"
    )


def _ours(path: Path, codec: str, clips: int, device: str, batch: int, passes: int = PASSES) -> list[ReadVariant]:
    """Raw reads, and our reader: without and with checksums, onto the GPU if there is one; ``batch`` clips at once.

    Where the store is taken several times, tokens that stay in memory are read too, which no disk and no page cache
    gives. Each has delivered the right tokens before it is timed.
    """
    order = random_order(clips)
    ranges = token_ranges(path, order)
    readers = [our_reader(our_name(codec, check), path, check=check, batch=batch) for check in CHECKS]
    if device != "cpu":
        readers.append(our_reader(f"{our_name(codec)}, onto {device}", path, check="never", batch=batch, device=device))
    if passes > 1:
        readers.append(our_reader(f"{our_name(codec)}, from memory", path, check="never", batch=batch, resident=True))
    delivered = [check_delivery(reader, order) for reader in readers]
    store = StoreToRead(codec=codec, order=order, ranges=ranges, nbytes=delivered[0], batch=batch, passes=passes)
    variants = [
        ReadVariant(name=reader.name, store=store, reader=reader, passes=passes, note=reader.note) for reader in readers
    ]
    return [*raw_reads(store), *variants]


def _baselines(place: Path, clips: int) -> tuple[list[ReadVariant], list[BenchRow]]:
    """The libraries that are installed, and a row for each that is not."""
    path, order = place / BASELINES_CODEC, random_order(clips)
    slots = clip_slots(load_metadata(path).layout)
    installed, absent = [], []
    for baseline in BASELINES:
        if not is_installed(baseline):
            absent.append(unmeasured(baseline.name, "GB/s", f"not installed: pip install {baseline.package}"))
            continue
        try:
            reader = _prepare(baseline, path, place / baseline.module, clips, slots)
            nbytes = check_delivery(reader, order)
        except ImportError as error:
            # it is there, but something that it needs is not
            absent.append(unmeasured(baseline.name, "GB/s", f"cannot be imported: {error}"))
            continue
        store = StoreToRead(codec=BASELINES_CODEC, order=order, ranges=(), nbytes=nbytes)
        installed.append(ReadVariant(name=reader.name, store=store, reader=reader, note=reader.note))
    return installed, absent


def _prepare(baseline: Baseline, store: Path, folder: Path, clips: int, slots: Sequence[ClipArrays]) -> Reader:
    folder.mkdir()
    source = Source(store=store, arrays=load_metadata(store).layout, clips=clips, folder=folder, threads=THREADS)
    baseline.write(source)
    return baseline_reader(baseline, source, slots)


def _goals(rows: Sequence[BenchRow]) -> tuple[Goal, ...]:
    wanted = {f"warm: {our_name(codec, check)}": goal for codec in CODEC_NAMES for check, goal in GOALS.items()}
    return tuple(
        Goal(what=f"{row.variant}, of the limit", wanted=wanted[row.variant], found=row.ratio or 0.0)
        for row in rows
        if row.variant in wanted
    )


@dataclass(frozen=True, kw_only=True)
class StoreToRead:
    """A store to be read: the clips in random order, where they lie, in that order, and the bytes of the tokens.

    ``batch`` clips are delivered at once; a warm measurement reads the whole ``passes`` times.
    """

    codec: str
    order: Sequence[int]
    ranges: Sequence[FileRange]
    nbytes: int
    batch: int = BATCH
    passes: int = PASSES

    @property
    def batch_bytes(self) -> int:
        return self.batch * self.nbytes // len(self.order)


@dataclass(frozen=True, kw_only=True)
class ReadVariant:
    """Something that reads a store: a reader, or (None) raw reads into ``memory`` bytes.

    ``passes`` is how often one warm measurement reads the whole. ``is_limit`` marks the denominator of its codec.
    """

    name: str
    store: StoreToRead
    reader: Reader | None = None
    passes: int = 1
    memory: int = 0
    is_limit: bool = False
    note: str = ""

    def files(self) -> Sequence[Path]:
        if self.reader is not None:
            return self.reader.files()
        return list(dict.fromkeys(part.path for part in self.store.ranges))


@dataclass(frozen=True)
class ReadRows:
    """Timed rows: those of the limits, the others, and notes where the page cache was not as it should be."""

    limits: tuple[BenchRow, ...] = ()
    rows: tuple[BenchRow, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: ReadRows) -> ReadRows:
        return ReadRows(self.limits + other.limits, self.rows + other.rows, self.notes + other.notes)


def raw_reads(store: StoreToRead) -> list[ReadVariant]:
    """The limit, and the same into memory that the processor's cache can hold, which no batch could."""
    codec = store.codec
    return [
        ReadVariant(
            name=f"raw reads, {codec}",
            store=store,
            passes=store.passes,
            memory=store.batch_bytes,
            is_limit=True,
            note=f"{THREADS} preadv at a time into the memory of one batch",
        ),
        ReadVariant(
            name=f"raw reads into a small buffer, {codec}",
            store=store,
            passes=store.passes,
            note="as large as a clip's largest stage: stays in the processor's cache, holds no batch",
        ),
    ]


def time_readers(variants: Sequence[ReadVariant], *, cold: bool, repeats: int, progress: Progress) -> ReadRows:
    """Time all variants in turns.

    Warm, everything is in the page cache because it has been read before. Cold, a variant's files are closed,
    dropped from the page cache and opened again before each turn, and read once.
    """
    with ExitStack() as stack:
        timers = [ReadTimer(variant, cold) for variant in variants]
        for timer in timers:
            stack.callback(timer.close)
        timed = [
            TimedVariant(timer.variant.name, timer.read, before=timer.prepare, after=timer.rest) for timer in timers
        ]
        seconds = time_interleaved(timed, repeats=repeats, progress=progress)
    state = "cold" if cold else "warm"
    limits: dict[str, BenchRow] = {}
    rows: list[BenchRow] = []
    for timer in sorted(timers, key=lambda timer: not timer.variant.is_limit):
        variant = timer.variant
        codec = variant.store.codec
        rate = seconds[variant.name].rate(timer.passes * variant.store.nbytes / 1e9)
        row = measured(f"{state}: {variant.name}", rate, "GB/s", of=limits.get(codec), note=variant.note)
        if variant.is_limit:
            limits[codec] = row
        else:
            rows.append(row)
    return ReadRows(tuple(limits.values()), tuple(rows), tuple(note for timer in timers for note in timer.notes(state)))


class ReadTimer:
    """Times a variant. It is opened at its first turn or, where it has to start cold, at every turn."""

    def __init__(self, variant: ReadVariant, cold: bool) -> None:
        self.variant = variant
        self.passes = 1 if cold else variant.passes
        # in the page cache before a turn: the most where nothing should be, the least where everything should
        self._cached = 0.0 if cold else 1.0
        self._cold = cold
        self._order = list(variant.store.order) * self.passes
        self._stack = ExitStack()
        self._read: Callable[[], object] | None = None

    def prepare(self) -> None:
        if self._cold:
            files = self.variant.files()
            evict(files)
            self._cached = max(self._cached, cached_fraction(files))
        if self._read is None:
            self._read = self._open()

    def read(self) -> None:
        if self._read is None:
            raise RuntimeError("prepare() comes first")
        self._read()

    def rest(self) -> None:
        """Close a cold variant: it may hold maps of files, whose pages could not be dropped for the next one."""
        if self._cold:
            self.close()

    def notes(self, state: str) -> list[str]:
        """Notes for the table where the page cache did not hold what it should, or held what it should not."""
        if abs(self._cached - (not self._cold)) <= FEW_PAGES:
            return []
        return [f"{state}: {self._cached:.0%} of the files of {self.variant.name} were in the page cache"]

    def close(self) -> None:
        if not self._cold and self._read is not None:
            self._cached = cached_fraction(self.variant.files())
        self._read = None
        self._stack.close()

    def _open(self) -> Callable[[], object]:
        variant = self.variant
        if variant.reader is None:
            return RawReader(list(variant.store.ranges) * self.passes, threads=THREADS, memory=variant.memory).read
        deliver: Deliver = self._stack.enter_context(variant.reader.open())
        return partial(consume, deliver, self._order)
