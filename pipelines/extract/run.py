"""Stage one: run the frozen backbones over a data set once, and keep every layer's tokens.

Everything is checked, and everything wrong is named in one message, before work begins. Committed clips stay committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from mettle_cache.datasets import DATASETS, Dataset, MediaProblem
from mettle_cache.devices import peak_resident
from mettle_cache.errors import DatasetError, StoreCorruptError, StoreMissingError
from mettle_cache.pipelines.extract.cluster import check_scheduler, cluster_clips
from mettle_cache.pipelines.extract.config import ExtractConfig, ExtractReport, default_store_path
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    build_extractor,
    clips_in_a_shard,
    open_config_dataset,
    store_spec,
)
from mettle_cache.pipelines.extract.failures import Failures
from mettle_cache.pipelines.extract.late_bundles import keep_late_bundles
from mettle_cache.pipelines.extract.limit import clips_beyond, count_left_out, limit_notes, of_clips, remaining_samples
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.extract.other_key import other_key_explained
from mettle_cache.pipelines.extract.pilot import with_static_arrays
from mettle_cache.pipelines.extract.precision import precision_record
from mettle_cache.pipelines.extract.refresh import find_changed, without_deleted
from mettle_cache.pipelines.extract.stream import Outcome, stream_clips
from mettle_cache.pipelines.extract.weights import remember_backbones
from mettle_cache.pipelines.progress import Progress, Silent, detail
from mettle_cache.pipelines.read_back import read_back
from mettle_cache.pipelines.report.units import count, format_bytes
from mettle_cache.pipelines.room import check_room
from mettle_cache.pipelines.signals import InterruptedRunError, stop_on_signals
from mettle_cache.store.format.layout import bytes_per_clip
from mettle_cache.store.precision_record import keep_precision
from mettle_cache.store.writing.locks import part_clips
from mettle_cache.store.writing.writer import StoreReport, StoreWriter

LISTED = 20
RESUME = "run the same command again: it goes on where this run stopped"


def extract(config: ExtractConfig, progress: Progress | None = None) -> ExtractReport:
    """Run the frozen backbones over a data set and store every chosen layer's tokens.

    Only the clips that the store lacks are extracted: called again, it resumes what an earlier call with the same
    configuration left, and the bytes are the same as those of one call::

        report = extract(ExtractConfig(dataset="ave", root=Path("data/AVE"), visual="swinv2_l", audio="htsat"))
        print(report.store, report.written, report.failures)

    Parameters
    ----------
    config
        The data set, the backbones, the codec, the layers and where the store goes.
    progress
        Is told how far the work is, and before it notes for the user.

    Raises
    ------
    UsageError
        An unknown data set, option, backbone, codec, layer or device, or a root that is no folder; a precision that
        does not hold what the backbones compute.
    PluginError, WeightsError
        The package that offers the data set or a backbone is broken; weights are missing or damaged.
    DatasetError
        Annotations that are wrong, or media that are missing or unreadable, all in one message, before any work starts.
    StoreKeyError, StoreSourcesError
        The store was made by another configuration; or of other media, and ``refresh`` is not set.
    StoreBusyError
        Another process extracts the same part.
    EveryClipFailsError
        Nothing but failures: something is wrong that the clips share. None of them is recorded as failed.
    MachineError
        Memory, open files or the device are at an end; what is committed stays.
    NoRoomError
        The disk cannot hold, or could not hold, what is to be written; what is committed stays.
    InterruptedRunError
        SIGINT or SIGTERM; what is committed stays. A forward pass that is under way ends by itself in its thread.
    """
    progress = progress or Silent()
    notes = _task_notes(config)
    for note in notes:
        progress.note(f"note: {note}")
    out = config.out or default_store_path(config)
    dataset = open_config_dataset(config)
    # before the media, at which looking takes minutes: a wrong name, file or address is found at once
    extractor = build_extractor(config, dataset)
    if config.scheduler is not None:
        check_scheduler(config.scheduler)
    missing = _look_at_media(extractor, config, out, progress)
    return _write_store(config, extractor, out, missing, notes, progress)


def _write_store(
    config: ExtractConfig,
    extractor: Extractor,
    out: Path,
    missing: Mapping[str, str],
    notes: Sequence[str],
    progress: Progress,
) -> ExtractReport:
    """Create or resume the store at ``out``, fill this part of it, and finish it where no clip is left."""
    about_store = [*store_notes(extractor, missing), *limit_notes(extractor.dataset, config.limit)]
    for note in about_store:
        progress.note(note)
    with with_static_arrays(extractor, config, out, progress) as extractor:
        spec = without_deleted(store_spec(extractor, config), out)
        beyond = clips_beyond(extractor.dataset, config.limit)
        precision = precision_record(extractor, spec, out, {*missing, *beyond}, progress)
        with other_key_explained(out, spec):
            writer = StoreWriter.create_or_resume(out, spec)
    remember_backbones(config, extractor)
    with writer:
        try:
            for note in keep_late_bundles(writer.metadata, extractor.backbones):
                progress.note(note)
            if precision is not None:
                keep_precision(writer.path, writer.metadata.record.key_digest, precision)
            counts = _fill_store(config, extractor, writer, missing, progress)
            _read_back_the_rest(writer, progress)
            counts.left_out = count_left_out(writer, beyond)
            report = counts.report(writer.finish(), config, out, [*notes, *about_store])
            return replace(report, precision=precision)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"stopped before {out} was finished", hint=RESUME) from None


def _look_at_media(extractor: Extractor, config: ExtractConfig, out: Path, progress: Progress) -> dict[str, str]:
    """What :func:`find_missing` finds; tells the notes before it, and after it what looking at each file adds."""
    dataset = extractor.dataset
    told = dataset.notes
    looked_at = len(dataset.clips) - len(clips_beyond(dataset, config.limit))
    for note in (*told, f"looking at the media of {count(looked_at, 'clip')} in {dataset.root}"):
        progress.note(note)
    missing = find_missing(dataset, config, out, clips_in_a_shard(extractor, config))
    for note in dataset.notes:
        if note not in told:
            progress.note(note)
    return missing


def _fill_store(
    config: ExtractConfig, extractor: Extractor, writer: StoreWriter, missing: Mapping[str, str], progress: Progress
) -> _Counts:
    """Record the clips in ``missing`` as failed and extract the others that this part of the store lacks."""
    dataset = extractor.dataset
    beyond = clips_beyond(dataset, config.limit)
    memory = SourceMemory.open(writer.metadata.record.key_digest, dataset.root)
    lacking = writer.pending(config.part, compare=False)
    changed, notes = find_changed(writer, dataset, memory, progress, refresh=config.refresh)
    for note in notes:
        progress.note(note)
    mine = writer.clips_of(config.part)
    stale = [index for index in changed if index in mine]
    missing = {**missing, **find_unreadable(dataset, config, [writer.clips[index] for index in stale])}
    if changed:
        writer.forget(changed)
    pending = sorted({*lacking, *stale})
    if not writer.sealed:
        damaged = read_back(writer, writer.unread(config.part), progress)
        missing = {**missing, **find_unreadable(dataset, config, [writer.clips[index] for index in damaged])}
        pending = sorted({*pending, *damaged})
    # what is in the store stays there, beyond the limit too
    left_out = {
        index: reason for index in lacking if (reason := beyond.get(writer.clips[index])) and index not in stale
    }
    work = [index for index in pending if writer.clips[index] not in missing and index not in left_out]
    clip_bytes = sum(bytes_per_clip(extractor.layers, dataset.segments, extractor.codec).values())
    check_room(writer.path, len(work) * clip_bytes + writer.bytes_of_copies(work))
    counts = _Counts(dataset, skipped=len(mine) - len(pending), notes=notes)
    failures = Failures.of_run(writer, skip=config.skip_missing)
    for index, reason in left_out.items():
        failures.leave_out(index, reason)
    for index in sorted({*pending} - {*left_out}):
        reason = missing.get(dataset.clips[index].id)
        if reason is not None:
            failures.leave_out(index, reason)
            counts.add(Outcome(index, error=reason), progress)
    if work:
        _extract_clips(config, extractor, writer, work, counts, failures, memory, progress)
    failures.close()
    return counts


def _extract_clips(
    config: ExtractConfig,
    extractor: Extractor,
    writer: StoreWriter,
    work: Sequence[int],
    counts: _Counts,
    failures: Failures,
    memory: SourceMemory,
    progress: Progress,
) -> None:
    """Extract the clips ``work``, count the outcomes and remember the media; stops cleanly on a signal."""
    on_cluster = bool(config.workers or config.scheduler)
    where = config.scheduler or (f"{config.workers} workers" if on_cluster else str(extractor.device))
    # a clip of one segment is a picture
    unit = "frames" if extractor.dataset.segments == 1 else "clips"
    progress.start(len(work), unit, f"extract on {where}")
    started, left = time.perf_counter(), len(work)
    stopping = stop_on_signals("stopping; the clips that are being written are finished, once more ends it at once")
    with stopping as stop, closing(memory):
        if on_cluster:
            outcomes = cluster_clips(config, extractor, writer, work, stop)
        else:
            outcomes = stream_clips(extractor, writer, work, stop)
        for outcome in outcomes:
            left -= 1
            counts.add(outcome, progress)
            failures.add(outcome)
            if outcome.error is None:
                writer.trust(outcome.index)
                detail(progress, f"clip {writer.clips[outcome.index]}: {format_bytes(outcome.nbytes)} written")
            if outcome.look is not None:
                memory.remember(writer.clips[outcome.index], outcome.look.lasting_stamp, outcome.source)
            counts.seconds = time.perf_counter() - started
            progress.advance(1, nbytes=outcome.nbytes)
    progress.finish()
    if left:
        raise InterruptedRunError(
            f"stopped with {count(left, 'clip')} to go; the {counts.written} of this run are safe in {writer.path}",
            hint=RESUME,
        )


def _read_back_the_rest(writer: StoreWriter, progress: Progress) -> None:
    """Before the store is sealed: read what neither this run nor its beginning has read, such as other parts' clips.

    Raises
    ------
    StoreCorruptError
        Clips are damaged; they are forgotten, and the store stays unfinished.
    """
    damaged = read_back(writer, writer.unread_before_sealing(), progress)
    if damaged:
        names = ", ".join(writer.clips[clip] for clip in damaged[:LISTED])
        raise StoreCorruptError(
            f"{len(damaged)} clips of {writer.path} were damaged since they were written: {names}",
            hint="run the same mettle extract command again (that of their part): it extracts just these anew",
        )


@dataclass
class _Counts:
    """Counts what happens to the clips of a run."""

    dataset: Dataset
    skipped: int
    left_out: int = 0
    written: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, progress: Progress) -> None:
        self.peak_memory = max(self.peak_memory, outcome.peak_memory)
        if outcome.error is None:
            self.written += 1
            self.nbytes += outcome.nbytes
            return
        clip = self.dataset.clips[outcome.index].id
        self.failures[clip] = outcome.error
        hint = f" ({outcome.hint})" if outcome.hint else ""
        progress.note(f"clip {clip} cannot be extracted: {outcome.error}{hint}")

    def report(self, store: StoreReport, config: ExtractConfig, out: Path, notes: list[str]) -> ExtractReport:
        frames = self.written * self.dataset.segments
        return ExtractReport(
            store=out,
            clips=store.clips + store.failed + store.pending,
            written=self.written,
            skipped=self.skipped,
            failed=store.failed - self.left_out,
            left_out=self.left_out,
            pending=store.pending,
            nbytes=self.nbytes,
            seconds=self.seconds,
            frames_per_second=frames / self.seconds if self.seconds else 0.0,
            peak_memory=max(self.peak_memory, peak_resident()),
            failures=self.failures,
            skip_missing=config.skip_missing,
            notes=[*notes, *self.notes],
        )


def _task_notes(config: ExtractConfig) -> list[str]:
    """Notes for the user before anything is read."""
    if DATASETS.row(config.dataset).task is not None:
        return []
    return [f"no task learns from {config.dataset}; train needs --recipe with a task"]


def store_notes(extractor: Extractor, missing: Mapping[str, str]) -> list[str]:
    """Notes for the user about the store, before the extraction begins."""
    notes = [
        f"{backbone.name} ({backbone.modality}) has RANDOM weights ({backbone.weights_source}): "
        "fine to try things out, no accuracy is to be expected"
        for backbone in extractor.backbones
        if backbone.weights_source.startswith("random")
    ]
    notes += [
        f"{backbone.name} ({backbone.modality}): weights of {backbone.weights_source}"
        for backbone in extractor.backbones
        if backbone.weights_source.startswith("file")
    ]
    if missing:
        notes.append(
            f"{count(len(missing), 'clip')} left out: the accuracy is not comparable with the published one. "
            f"Samples that remain: {remaining_samples(extractor.dataset.samples, missing)}"
        )
    return notes


def find_missing(dataset: Dataset, config: ExtractConfig, out: Path, clips_each: int) -> dict[str, str]:
    """Clip id to reason, of the clips that this run should extract and that cannot be read; see ``--skip-missing``.

    Media may be deleted once their clips are in the store, so only what is still to be extracted counts. Its shards
    hold ``clips_each`` clips.

    Raises
    ------
    DatasetError
        There are such clips, and ``skip_missing`` is not set; lists them all up to a screenful.
    """
    mine = [dataset.clips[index].id for index in part_clips(config.part, len(dataset.clips), clips_each)]
    try:
        with StoreWriter.join(out) as writer:
            mine = [writer.clips[index] for index in writer.pending(config.part, compare=False)]
    except (StoreMissingError, StoreCorruptError):
        pass  # nothing to go on with; create_or_resume says what there is to say
    beyond = clips_beyond(dataset, config.limit)
    return find_unreadable(dataset, config, [clip for clip in mine if clip not in beyond])


def find_unreadable(dataset: Dataset, config: ExtractConfig, mine: Sequence[str]) -> dict[str, str]:
    """Those of the clips ``mine`` that cannot be read, with the reasons; as :func:`find_missing`."""
    if not mine:
        return {}
    problems_of: dict[str, list[MediaProblem]] = {}
    looked_at = dataset if config.limit is None else of_clips(dataset, set(mine))
    with config.memory_budget.in_use():
        for problem in looked_at.problems(deep=True):
            problems_of.setdefault(problem.clip, []).append(problem)
    missing = {clip: problems_of[clip] for clip in mine if clip in problems_of}
    if missing and not config.skip_missing:
        lines = [str(problem) for problems in missing.values() for problem in problems]
        rest = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise DatasetError(
            "\n  - ".join(
                (f"{len(missing)} of {len(mine)} clips of {dataset.root} cannot be read:", *lines[:LISTED], *rest)
            ),
            hint="restore these files, or go on without them: --skip-missing (the accuracy is then not comparable)",
        )
    return {clip: "; ".join(f"{_under(dataset, p)}: {p.what}" for p in problems) for clip, problems in missing.items()}


def _under(dataset: Dataset, problem: MediaProblem) -> Path:
    """The file of a problem, relative to the data set's folder, which must not change a store's bytes."""
    root = dataset.root
    return problem.path.relative_to(root) if problem.path.is_relative_to(root) else problem.path
