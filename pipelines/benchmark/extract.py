"""``mettle bench extract``: a whole extraction from real files, beside the bare backbones on resident tensors.

It also checks ``mettle plan``: the rates that plan expects of this machine, beside the measured ones. On a GPU it
measures what half precision gains, and the error that it leaves in the stored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mettle_cache.pipelines.benchmark.extraction import CLIP_BYTES, Extraction, write_media
from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.read import ReadTimer, ReadVariant, StoreToRead
from mettle_cache.pipelines.benchmark.readers import COLD_BATCH, our_reader, random_order
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.plan import seconds_a_clip
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Repeats, TimedVariant, time_interleaved
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import RECORDS, bytes_per_clip
from mettle_cache.store.reading.disk_speed import PROBE_BYTES, measure_read_speed
from mettle_cache.tokens import LayerTokens

CODEC, KLT = "int8", "klt1.5"
BENCH_BACKBONES = ("swinv2_l=random", "htsat=random")
TINY_BACKBONES = ("test_vit@64=random", "test_efficientnet@64=random")
TINY_PROBE_BYTES = 8 << 20
# enough batches for reads to overlap, as in an epoch
READ_CLIPS = 24
GOAL, ENCODING_GOAL = 0.90, 0.10
# how far plan's crossover may be from what then happens
AGREEMENT = 1.3

BARE, WHOLE, PASS, READ = "bare backbones", "whole extraction", "forward passes", "reading, cold"
PLAN_COMPUTES, PLAN_READS = "mettle plan expects, computing", "mettle plan expects, reading"
PARTS = {
    "decoding": "pictures and recording read and preprocessed",
    "encoding": f"to {CODEC}, codes taken to the host",
    "writing": "checksums, files, fsync, commit record",
}
WHOLE_KLT, ENCODING_KLT = f"{WHOLE}, {KLT}", f"encoding, {KLT}"


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write media, extract them, check the store, then time the whole, its parts, and what plan expects."""
    clips = options.clips or 1
    visual, audio = TINY_BACKBONES if options.tiny else BENCH_BACKBONES
    with bench_folder(options, _needed(clips)) as place:
        write_media(place / "AVE", clips)
        config = ExtractConfig(
            dataset="ave", root=place / "AVE", visual=visual, audio=audio, codec=CODEC, device=options.device
        )
        extraction = Extraction.set_up(config, clips, place / "stores")
        progress.note(f"one extraction of {clips} clips, to warm up and to check what it stores")
        extraction.check_store()
        write_bench_store(place / "read", extraction.extractor.layers, codec=CODEC, clips=READ_CLIPS, progress=progress)
        probe = TINY_PROBE_BYTES if options.tiny else PROBE_BYTES
        variants = [*_variants(extraction, place / "read", probe), *_klt_variants(extraction, progress)]
        seconds = time_interleaved(variants, repeats=options.repeats, progress=progress, warm_up=options.tiny)
        denominators = _denominators(extraction, seconds)
        rows = list(_rows(extraction, seconds, denominators))
        on_gpu = extraction.extractor.device.type == "cuda"
        if on_gpu:
            rows += precision_rows(extraction, repeats=options.repeats, progress=progress, of=denominators[BARE])
    notes = ["a frame is a segment: a picture and its second of sound"]
    return BenchTable(
        bench="extract",
        title=f"{clips} clips through {visual} and {audio}, {extraction.extractor.passes_at_once} passes at once",
        rows=tuple(rows),
        denominators=tuple(denominators.values()),
        goals=tuple(_goals({row.variant: row for row in (*denominators.values(), *rows)})),
        notes=tuple(notes if on_gpu else [*notes, "no GPU here: half precision was not run"]),
        repeats=options.repeats,
    )


def _needed(clips: int) -> int:
    """Media, a store that is extracted, one of a clip, one that is read, and the probe of the disk.

    Stores in klt are smaller, and are not there at the same time.
    """
    return store_bytes(bench_layers(), CODEC, clips + 1 + READ_CLIPS) + (clips + 2) * CLIP_BYTES + PROBE_BYTES


def _variants(extraction: Extraction, store: Path, probe: int) -> Iterator[TimedVariant]:
    extractor = extraction.extractor
    yield TimedVariant(BARE, extraction.forward)
    yield TimedVariant(WHOLE, extraction.whole, before=extraction.clear, after=extraction.clear)
    yield from (
        TimedVariant(part, work)
        for part, work in zip(PARTS, (extraction.decode, extraction.encode, extraction.write), strict=True)
    )
    yield TimedVariant(
        PLAN_COMPUTES,
        partial(seconds_a_clip, extractor.backbones, extractor.device, extractor.dataset.segments),
        own_clock=True,
    )
    reader = our_reader(READ, store, check="first", batch=COLD_BATCH)
    read = StoreToRead(codec=CODEC, order=random_order(READ_CLIPS), ranges=(), nbytes=0)
    timer = ReadTimer(ReadVariant(name=READ, store=read, reader=reader), cold=True)
    yield TimedVariant(READ, timer.read, before=timer.prepare, after=timer.rest)
    sizes = bytes_per_clip(extractor.layers, extractor.dataset.segments, get_codec(CODEC))
    clip_bytes = sum(sizes.values()) - sizes[RECORDS]
    yield TimedVariant(
        PLAN_READS, lambda: clip_bytes / measure_read_speed(extraction.folder, nbytes=probe), own_clock=True
    )


def _klt_variants(extraction: Extraction, progress: Progress) -> Iterator[TimedVariant]:
    """Cells are left out: AVE's heads are not dense."""
    progress.note(f"frames for the pilot of {KLT}, and one extraction to check what it stores")
    klt = extraction.in_codec(KLT)
    klt.check_store()
    yield TimedVariant(WHOLE_KLT, klt.whole, before=klt.clear, after=klt.clear)
    yield TimedVariant(ENCODING_KLT, klt.encode)


def _denominators(extraction: Extraction, seconds: Mapping[str, Repeats]) -> dict[str, BenchRow]:
    bare, at_once = seconds[BARE], extraction.extractor.passes_at_once
    rows = (
        measured(BARE, bare.rate(extraction.segments), "frames/s", note="on resident tensors, as many passes at once"),
        measured(PASS, bare.times(at_once / extraction.clips), "s a clip", note="one of those that run at once"),
        measured(
            READ,
            seconds[READ].rate(READ_CLIPS),
            "clips/s",
            note=f"{READ_CLIPS} clips by TokenStore.batches, every checksum compared",
        ),
    )
    return {row.variant: row for row in rows}


def _rows(extraction: Extraction, seconds: Mapping[str, Repeats], of: Mapping[str, BenchRow]) -> Iterator[BenchRow]:
    note = "JPEG and WAV files to a committed store"
    yield measured(WHOLE, seconds[WHOLE].rate(extraction.segments), "frames/s", of=of[BARE], note=note)
    for part, note in PARTS.items():
        yield measured(part, seconds[part], "s a clip", of=of[PASS], note=note)
    note = "its pilot, which runs once a store, not counted"
    yield measured(WHOLE_KLT, seconds[WHOLE_KLT].rate(extraction.segments), "frames/s", of=of[BARE], note=note)
    yield measured(ENCODING_KLT, seconds[ENCODING_KLT], "s a clip", of=of[PASS], note="codes taken to the host")
    segments = extraction.extractor.dataset.segments
    note = "a trial of two segments, of zeros"
    yield measured(PLAN_COMPUTES, seconds[PLAN_COMPUTES].rate(segments), "frames/s", of=of[BARE], note=note)
    yield measured(PLAN_READS, seconds[PLAN_READS].rate(1), "clips/s", of=of[READ], note="a probe of the disk")


def _goals(rows: Mapping[str, BenchRow]) -> Iterator[Goal]:
    value = {name: row.value or 0.0 for name, row in rows.items()}
    for name in (WHOLE, WHOLE_KLT):
        yield Goal(what=f"{name}, of the bare backbones", wanted=GOAL, found=value[name] / value[BARE])
    what, found = f"{ENCODING_KLT}, of the backbones", value[ENCODING_KLT] / value[PASS]
    yield Goal(what=what, wanted=ENCODING_GOAL, found=found, least=False)
    for what, expected, measured_value in (
        ("computing, expected against found", value[PLAN_COMPUTES], value[BARE]),
        ("reading, expected against found", value[PLAN_READS], value[READ]),
        ("crossover, expected against found", value[PLAN_READS] / value[PLAN_COMPUTES], value[READ] / value[BARE]),
        ("extraction time, expected against found", value[PLAN_COMPUTES], value[WHOLE]),
    ):
        yield Goal(
            what=f"mettle plan: {what}", wanted=AGREEMENT, found=_times_apart(expected, measured_value), least=False
        )


def _times_apart(one: float, other: float) -> float:
    """How many times the larger is the smaller."""
    return max(one, other) / min(one, other)


HALF = ("bfloat16", "float16")


def precision_rows(exact: Extraction, *, repeats: int, progress: Progress, of: BenchRow) -> list[BenchRow]:
    """For each half precision: frames/s of the whole extraction beside ``of``, and the error of what it stores.

    The error is that of the decoded tokens from the float32 ones, so the codec's own is in it; float32's row is the
    codec's alone.
    """
    rows = [error_row("float32", exact, exact.tokens)]
    for precision in HALF:
        config = replace(exact.config, precision=precision)
        half = Extraction.set_up(config, exact.clips, exact.folder / precision)
        seconds = time_interleaved(
            [TimedVariant("whole", half.whole, before=half.clear, after=half.clear)], repeats=repeats, progress=progress
        )
        rows.append(measured(f"whole extraction, {precision}", seconds["whole"].rate(half.segments), "frames/s", of=of))
        rows.append(error_row(precision, half, exact.tokens))
    return rows


def error_row(precision: str, extraction: Extraction, exact: Mapping[str, Tensor]) -> BenchRow:
    """The worst layer's relative L2 error of one clip's stored tokens."""
    errors = relative_errors(extraction.codes, exact)
    worst = max(errors, key=lambda name: errors[name])
    typical = Repeats(tuple(errors.values()))
    return BenchRow(
        variant=f"error of the stored tokens, {precision}",
        value=errors[worst],
        unit="relative L2",
        low=typical.low,
        high=typical.high,
        note=f"the worst layer, {worst}; median of all layers {typical.median:.2g}",
    )


def relative_errors(stored: Mapping[str, LayerTokens], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """``|decoded - exact| / |exact|`` (L2) by layer."""
    errors: dict[str, float] = {}
    for name, tokens in stored.items():
        reference = exact[name].detach().float().cpu()
        errors[name] = float(
            torch.linalg.vector_norm(tokens.floats() - reference) / torch.linalg.vector_norm(reference)
        )
    return errors
