"""Stage one: run the frozen backbones over a data set once, and keep every layer's tokens.

Check everything, name everything that is wrong, and only then begin; whatever is committed by then stays committed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.datasets import Dataset
from mettle_cache.devices import peak_resident
from mettle_cache.pipelines.extract.cluster import cluster_clips
from mettle_cache.pipelines.extract.config import ExtractConfig, ExtractReport, default_out
from mettle_cache.pipelines.extract.extractor import Rig, build_rig, open_config_dataset
from mettle_cache.pipelines.extract.interrupt import InterruptedRunError, stop_on_signals
from mettle_cache.pipelines.extract.preflight import check_room, find_missing
from mettle_cache.pipelines.extract.store_key import store_spec
from mettle_cache.pipelines.extract.stream import Outcome, stream_clips
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.sizes import bytes_per_clip
from mettle_cache.store.writing.locks import part_range
from mettle_cache.store.writing.writer import StoreReport, StoreWriter

if TYPE_CHECKING:
    import pyarrow as pa


def run_extraction(config: ExtractConfig, progress: Progress | None = None) -> ExtractReport:
    """Extract the clips that the store lacks; resumes whatever an earlier run of the same configuration left.

    Raises
    ------
    DatasetError
        Media that are missing or unreadable, all of them in one message, before any work starts.
    StoreKeyError
        The store was made by another configuration.
    NoRoomError
        The disk cannot hold, or could not hold, what is to be written; what is committed stays.
    InterruptedRunError
        SIGINT or SIGTERM; what is committed stays.
    """
    progress = progress or Silent()
    out = config.out or default_out(config)
    dataset = open_config_dataset(config)
    for note in dataset.notes:
        progress.note(note)
    progress.note(f"looking at the media of {len(dataset.clips)} clips in {dataset.root}")
    missing = find_missing(dataset, config, out)
    rig = build_rig(config, dataset)
    notes = _notes(rig, missing)
    for note in notes:
        progress.note(note)
    with StoreWriter.create_or_resume(out, store_spec(rig, config)) as writer:
        pending = writer.pending(config.part)
        work = [index for index in pending if dataset.clips[index].id not in missing]
        check_room(out, len(work) * sum(bytes_per_clip(rig.layers, dataset.segments, rig.codec).values()))
        tally = _Tally(dataset, skipped=len(part_range(config.part, len(writer.clips))) - len(pending))
        for index in (index for index in pending if dataset.clips[index].id in missing):
            reason = missing[dataset.clips[index].id]
            writer.fail_clip(index, reason)
            tally.add(Outcome(index, error=reason), progress)
        if work:
            _extract(config, rig, writer, work, tally, progress)
        return tally.report(writer.finish(), out, notes)


def _extract(
    config: ExtractConfig, rig: Rig, writer: StoreWriter, work: Sequence[int], tally: _Tally, progress: Progress
) -> None:
    """Extract ``work`` and count the outcomes; stops cleanly on a signal."""
    on_cluster = bool(config.workers or config.scheduler)
    where = config.scheduler or (f"{config.workers} workers" if on_cluster else str(rig.device))
    progress.start(len(work), "clips", f"extract on {where}")
    started, left = time.perf_counter(), len(work)
    with stop_on_signals() as stop:
        outcomes = (
            cluster_clips(config, rig, writer, work, stop) if on_cluster else stream_clips(rig, writer, work, stop)
        )
        for outcome in outcomes:
            left -= 1
            tally.add(outcome, progress)
            tally.seconds = time.perf_counter() - started
            progress.advance(1, nbytes=outcome.nbytes)
    progress.finish()
    if left:
        raise InterruptedRunError(
            f"stopped with {left} clips to go; the {tally.written} written by this run are safe in {writer.path}",
            hint="run the same command again: it goes on where this run stopped",
        )


@dataclass
class _Tally:
    """Counts what happens to the clips of a run."""

    dataset: Dataset
    skipped: int
    written: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome, progress: Progress) -> None:
        self.peak_memory = max(self.peak_memory, outcome.peak_memory)
        if outcome.error is None:
            self.written += 1
            self.nbytes += outcome.nbytes
            return
        clip = self.dataset.clips[outcome.index].id
        self.failures[clip] = outcome.error
        progress.note(f"clip {clip} cannot be extracted: {outcome.error}")

    def report(self, store: StoreReport, out: Path, notes: list[str]) -> ExtractReport:
        frames = self.written * self.dataset.segments
        return ExtractReport(
            store=out,
            clips=store.clips + store.failed + store.pending,
            written=self.written,
            skipped=self.skipped,
            failed=store.failed,
            pending=store.pending,
            nbytes=self.nbytes,
            seconds=self.seconds,
            frames_per_second=frames / self.seconds if self.seconds else 0.0,
            peak_memory=max(self.peak_memory, peak_resident()),
            failures=self.failures,
            notes=notes,
        )


def _notes(rig: Rig, missing: dict[str, str]) -> list[str]:
    """What a user should know about the store before any time goes into it."""
    notes = [
        f"{backbone.name} ({backbone.modality}) has RANDOM weights ({backbone.weights_source}): "
        "fine to try things out, no accuracy is to be expected"
        for backbone in rig.backbones
        if backbone.weights_source.startswith("random")
    ]
    if missing:
        notes.append(
            f"{len(missing)} clips are left out: the accuracy is not comparable with the published one. "
            f"Samples that remain: {_remaining(rig.dataset.samples, missing)}"
        )
    return notes


def _remaining(samples: pa.Table, missing: Collection[str]) -> str:
    """For example ``train 3300 of 3339, test 400 of 402``: a clip may be that of many samples, in several splits."""
    counts: dict[str, list[int]] = {}
    for split, clips in zip(samples["split"].to_pylist(), clips_of_samples(samples), strict=True):
        count = counts.setdefault(split, [0, 0])
        count[0] += not any(clip in missing for clip in clips)
        count[1] += 1
    return ", ".join(f"{split} {kept} of {every}" for split, (kept, every) in counts.items())
