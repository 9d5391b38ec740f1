"""Beginning or resuming the store that a training fills, as an extraction begins or resumes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mettle_cache.errors import StoreError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import Extractor, store_spec
from mettle_cache.pipelines.extract.late_bundles import keep_late_bundles
from mettle_cache.pipelines.extract.limit import clips_beyond
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.extract.other_key import other_key_explained
from mettle_cache.pipelines.extract.refresh import find_changed, without_deleted
from mettle_cache.pipelines.online.filling import Filling
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import count
from mettle_cache.pipelines.room import check_room
from mettle_cache.samples import SPLIT, clips_of_samples
from mettle_cache.store.format.layout import bytes_per_clip
from mettle_cache.store.format.metadata import load_metadata, read_ready
from mettle_cache.store.writing.writer import StoreWriter


def refuse_finished(store: Path) -> None:
    """Refuse to fill a store that has its tokens already. Raises UsageError."""
    try:
        finished = read_ready(load_metadata(store)) is not None
    except StoreError:
        return  # there is none, or the writer says what is wrong with it
    if finished:
        raise UsageError(
            f"{store} is finished: there is nothing to fill",
            hint=f"read it: {command_line('mettle train --from-cache', store)}; or name another place: --fill-cache",
        )


def begin_writing(extractor: Extractor, config: ExtractConfig, out: Path, progress: Progress) -> StoreWriter:
    """The writer of the store at ``out``, which is made or resumed.

    Raises
    ------
    StoreKeyError, StoreError
        A store of another configuration, or something else, lies there.
    """
    spec = without_deleted(store_spec(extractor, config), out)
    with other_key_explained(out, spec):
        writer = StoreWriter.create_or_resume(out, spec)
    for note in keep_late_bundles(writer.metadata, extractor.backbones):
        progress.note(note)
    return writer


def begin_filling(
    writer: StoreWriter,
    extractor: Extractor,
    config: ExtractConfig,
    *,
    failed: Mapping[str, str],
    splits: Sequence[str],
    progress: Progress,
) -> Filling:
    """Claim the store for this process; ``failed`` are the clips that are left out, ``splits`` what is to be filled.

    Raises
    ------
    StoreBusyError
        Another process writes it.
    StoreSourcesError
        The store has clips of other media than these.
    NoRoomError
        The disk cannot hold the clips of these splits.
    """
    dataset = extractor.dataset
    memory = SourceMemory.open(writer.metadata.record.key_digest, dataset.root)
    lacking = writer.pending(compare=False)
    # it raises for media that have changed: only an extraction withdraws clips
    find_changed(writer, dataset, memory, progress, refresh=False)
    beyond = clips_beyond(dataset, config.limit)
    known = {index: {**failed, **beyond}.get(writer.clips[index]) for index in lacking}
    for index, reason in known.items():
        if reason is not None:
            writer.fail_clip(index, reason)
    touched = _clips_of_splits(extractor, splits)
    work = [index for index, reason in known.items() if reason is None and writer.clips[index] in touched]
    clip_bytes = sum(bytes_per_clip(extractor.layers, dataset.segments, extractor.codec).values())
    check_room(writer.path, len(work) * clip_bytes + writer.bytes_of_copies(work))
    progress.note(
        f"filling store {writer.path}: {count(len(work), 'clip')} of {', '.join(splits)} to compute and write"
    )
    return Filling(writer, memory)


def _clips_of_splits(extractor: Extractor, splits: Sequence[str]) -> set[str]:
    samples, wanted = extractor.dataset.samples, set(splits)
    rows = zip(samples[SPLIT].to_pylist(), clips_of_samples(samples), strict=True)
    return {clip for split, clips in rows if split in wanted for clip in clips}
