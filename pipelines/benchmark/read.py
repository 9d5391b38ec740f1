"""``mettle bench read``: reading tokens in random clip order, beside the raw-read limit of the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mettle_cache.devices import choose_device
from mettle_cache.pipelines.benchmark.baselines.protocol import ClipArrays, Rival, Source
from mettle_cache.pipelines.benchmark.baselines.registry import RIVALS, is_installed
from mettle_cache.pipelines.benchmark.fullsize import bench_layers, store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.read_timing import PASSES, Contestant, Standings, Subject, hold_contest, raw_reads
from mettle_cache.pipelines.benchmark.reading import (
    BATCH,
    COLD_BATCH,
    THREADS,
    Reader,
    check_delivery,
    clip_slots,
    our_reader,
    random_order,
    rival_reader,
    token_files,
)
from mettle_cache.pipelines.benchmark.table import BenchTable, Goal, Row, unmeasured
from mettle_cache.pipelines.benchmark.workplace import workplace
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.format.metadata import load_head

CODECS = ("float16", "int8", "int4")
RIVALS_CODEC = "int8"
WANTED = 0.85
# when a chunk's checksum is compared (always: what any first read costs), and what that is called in the table
CHECKS = {"never": "", "always": ", checksums"}

NOTES = (
    f"warm: the page cache holds everything; ours and raw reads take the store {PASSES} times in a measurement",
    "cold: the files were dropped from the page cache (posix_fadvise), opened again and read once; a virtual disk may "
    "keep a cache of its own, which counts as the disk",
)


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write a store in every codec, check what each reader delivers, and time them all, warm and cold."""
    clips = options.clips or 1
    layers = bench_layers(tiny=options.tiny)
    sizes = {codec: store_bytes(layers, codec, clips) for codec in CODECS}
    copies = sum(rival.own_files for rival in RIVALS if is_installed(rival))
    with workplace(options, sum(sizes.values()) + copies * sizes[RIVALS_CODEC]) as place:
        for codec in CODECS:
            write_bench_store(place / codec, layers, codec=codec, clips=clips, progress=progress)
        progress.note("comparing what every reader delivers with TokenStore.read")
        device = str(choose_device(options.device))
        rivals, absent = _rivals(place, clips)
        warm, cold = Standings(), Standings()
        # one codec after the other: what every reader keeps for its batches would not fit side by side
        for codec in CODECS:
            others = rivals if codec == RIVALS_CODEC else []
            everybody = [*_ours(place / codec, codec, clips, device, BATCH), *others]
            warm += hold_contest(everybody, cold=False, repeats=options.repeats, progress=progress)
            everybody = [*_ours(place / codec, codec, clips, device, COLD_BATCH), *others]
            everybody = [who for who in everybody if who.reader is not None or who.is_limit]
            cold += hold_contest(everybody, cold=True, repeats=options.repeats, progress=progress)
    return BenchTable(
        bench="read",
        title=f"reading tokens in random clip order, {clips} clips, batches of {BATCH} (cold: {COLD_BATCH})",
        rows=(*warm.rows, *cold.rows, *absent),
        denominators=(*warm.limits, *cold.limits),
        goals=_goals(warm.rows),
        notes=(*NOTES, *warm.notes, *cold.notes),
        repeats=options.repeats,
    )


def our_name(codec: str, check: str = "never") -> str:
    """What our reader is called in the table."""
    return f"mettle, {codec}{CHECKS[check]}"


def _ours(path: Path, codec: str, clips: int, device: str, batch: int) -> list[Contestant]:
    """Raw reads, and our reader: without and with checksums, onto the GPU if there is one; ``batch`` clips at once.

    Each has delivered the right tokens before it is timed.
    """
    order = random_order(clips)
    files = token_files(path, order)
    readers = [our_reader(our_name(codec, check), path, check=check, batch=batch) for check in CHECKS]
    if device != "cpu":
        readers.append(our_reader(f"{our_name(codec)}, onto {device}", path, check="never", batch=batch, device=device))
    delivered = [check_delivery(reader, order) for reader in readers]
    subject = Subject(codec=codec, order=order, files=files, nbytes=delivered[0], batch=batch)
    own = [
        Contestant(name=reader.name, subject=subject, reader=reader, passes=PASSES, note=reader.note)
        for reader in readers
    ]
    return [*raw_reads(subject), *own]


def _rivals(place: Path, clips: int) -> tuple[list[Contestant], list[Row]]:
    """The libraries that are installed, and a row for each that is not."""
    store, order = place / RIVALS_CODEC, random_order(clips)
    slots = clip_slots(load_head(store).layout)
    found, absent = [], []
    for rival in RIVALS:
        if not is_installed(rival):
            absent.append(unmeasured(rival.name, "GB/s", f"not installed: pip install {rival.package}"))
            continue
        try:
            reader = _prepare(rival, store, place / rival.module, clips, slots)
            nbytes = check_delivery(reader, order)
        except ImportError as error:
            # it is there, but something that it needs is not
            absent.append(unmeasured(rival.name, "GB/s", f"cannot be imported: {error}"))
            continue
        subject = Subject(codec=RIVALS_CODEC, order=order, files=(), nbytes=nbytes)
        found.append(Contestant(name=reader.name, subject=subject, reader=reader, note=reader.note))
    return found, absent


def _prepare(rival: Rival, store: Path, folder: Path, clips: int, slots: Sequence[ClipArrays]) -> Reader:
    folder.mkdir()
    source = Source(store=store, arrays=load_head(store).layout, clips=clips, folder=folder, threads=THREADS)
    rival.write(source)
    return rival_reader(rival, source, slots)


def _goals(rows: Sequence[Row]) -> tuple[Goal, ...]:
    names = {f"warm: {our_name(codec)}" for codec in CODECS}
    return tuple(
        Goal(what=f"{row.variant}, of the limit", wanted=WANTED, found=row.ratio or 0.0)
        for row in rows
        if row.variant in names
    )
