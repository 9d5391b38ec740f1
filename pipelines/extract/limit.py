"""A part of a data set for a quick trial: the first clips of each split.

The other clips are recorded as clips that the store lacks, so it is finished and can be trained from. Its key is that
of the whole store: the same command without a limit, or with a higher one, extracts the rest into it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING

from mettle_cache.datasets import Dataset
from mettle_cache.pipelines.report.units import count
from mettle_cache.samples import CLIP, SPLIT, clips_of_samples
from mettle_cache.store.writing.writer import StoreWriter

if TYPE_CHECKING:
    import pyarrow as pa


def clips_beyond(dataset: Dataset, limit: int | None) -> dict[str, str]:
    """Clip id to reason, of the clips that are left out: none where ``limit`` is None.

    Of each split the first ``limit`` clips are taken, in the order of its samples. Where the frames of a video are
    clips of their own, videos count, and all their frames are taken.
    """
    if limit is None:
        return {}
    samples = dataset.samples
    taken: dict[str, set[str]] = {}
    wanted: set[str] = set()
    columns = (samples[SPLIT].to_pylist(), samples[CLIP].to_pylist(), clips_of_samples(samples))
    for split, name, clips in zip(*columns, strict=True):
        names = taken.setdefault(split, set())
        if name in names or len(names) < limit:
            names.add(name)
            wanted.update(clips)
    return {clip.id: f"left out by --limit {limit}" for clip in dataset.clips if clip.id not in wanted}


def of_clips(dataset: Dataset, clips: Collection[str]) -> Dataset:
    """The data set with these clips alone where it is of a kind that can be cut, else as it is: what is looked at."""
    if is_dataclass(dataset) and not isinstance(dataset, type) and "clips" in {item.name for item in fields(dataset)}:
        return replace(dataset, clips=tuple(clip for clip in dataset.clips if clip.id in clips))
    return dataset


def within_limit(dataset: Dataset, limit: int | None) -> Dataset:
    """:func:`of_clips` with the clips that a limit takes."""
    if not (beyond := clips_beyond(dataset, limit)):
        return dataset
    return of_clips(dataset, {clip.id for clip in dataset.clips} - beyond.keys())


def limit_notes(dataset: Dataset, limit: int | None) -> list[str]:
    """What a limit takes of the data set, and how the rest is added."""
    if not (beyond := clips_beyond(dataset, limit)):
        return []
    taken = f"{len(dataset.clips) - len(beyond)} of {count(len(dataset.clips), 'clip')}"
    return [
        f"--limit {limit} takes {taken}; samples: {remaining_samples(dataset.samples, beyond)}. mettle extract "
        "with the same options and without this one adds the rest to the store"
    ]


def count_left_out(writer: StoreWriter, beyond: Collection[str]) -> int:
    """How many clips the store lacks because of a limit."""
    if not beyond:
        return 0
    return sum(
        status == "failed" and clip in beyond for clip, status in zip(writer.clips, writer.statuses(), strict=True)
    )


def remaining_samples(samples: pa.Table, missing: Collection[str]) -> str:
    """For example ``train 3300 of 3339, test 400 of 402``: a clip may be that of many samples, in several splits."""
    counts: dict[str, list[int]] = {}
    for split, clips in zip(samples["split"].to_pylist(), clips_of_samples(samples), strict=True):
        usable = counts.setdefault(split, [0, 0])
        usable[0] += not any(clip in missing for clip in clips)
        usable[1] += 1
    return ", ".join(f"{split} {remain} of {total}" for split, (remain, total) in counts.items())
