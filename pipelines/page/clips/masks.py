"""A mask for every frame of a video: segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mettle_cache.pipelines.page.clips.clip_list import ClipList, Terms, per_cent, scores_of
from mettle_cache.pipelines.report.text import printable

BAD = 0.5
"""An IoU below it counts as a mistake, so that a sure one can be found."""


@dataclass(frozen=True)
class MaskSample:
    """What a sample table says of a video: its category, and the ids and packed masks of its frames."""

    category: str
    clips: list[str]
    masks: list[bytes]


def mask_samples(samples: pa.Table | None, split: str) -> dict[int, MaskSample]:
    """Videos of a split by annotation row; empty where there are no samples at hand."""
    if samples is None or not {"clips", "masks"} <= set(samples.column_names):
        return {}
    categories = samples["category"].to_pylist() if "category" in samples.column_names else [""] * len(samples)
    columns = (samples[name].to_pylist() for name in ("row", "split", "clips", "masks"))
    return {
        row: MaskSample(category or "", clips, masks)
        for category, row, of_split, clips, masks in zip(categories, *columns, strict=True)
        if of_split == split
    }


def mask_clips(tables: Sequence[pa.Table], terms: Terms, samples: Mapping[int, MaskSample]) -> ClipList:
    """Items with ``f``, one entry a frame: its number, and for every run ``[IoU, confidence]``.

    Pictures are added where they are drawn, as ``[frame, overlay of each run]``.
    """
    rows = tables[0]["row"].to_pylist()
    starts = [place for place in range(len(rows)) if place == 0 or rows[place] != rows[place - 1]]
    clips, frames = tables[0]["clip"].to_pylist(), tables[0]["frame"].to_pylist()
    ious = [table["iou"].to_pylist() for table in tables]
    sure = [table["confidence"].to_pylist() if "confidence" in table.column_names else None for table in tables]
    groups = sorted({samples[row].category for row in rows if row in samples and samples[row].category})
    items: list[dict[str, Any]] = []
    media = []
    for number, start in enumerate(starts):
        span = range(start, starts[number + 1] if number + 1 < len(starts) else len(rows))
        sample = samples.get(rows[start])
        own = [100 * float(np.mean([column[place] for place in span])) for column in ious]
        items.append(
            {
                "id": printable(clips[start]),
                "s": [
                    round(mean, 2) if one is None else one
                    for one, mean in zip(scores_of(terms, number), own, strict=True)
                ],
                "x": [_surest(column, one, span) for column, one in zip(ious, sure, strict=True)],
                "g": [groups.index(sample.category)] if sample and sample.category else [],
                "f": [
                    [
                        frames[place],
                        [[per_cent(column[place]), _sure(one, place)] for column, one in zip(ious, sure, strict=True)],
                    ]
                    for place in span
                ],
                "row": rows[start],
            }
        )
        media.append(list(sample.clips[: len(span)]) if sample else [])
    return ClipList(
        kind="masks",
        items=items,
        media=media,
        groups=[printable(name) for name in groups],
        confident=any(one is not None for one in sure),
    )


def _sure(column: list[float | None] | None, place: int) -> float | None:
    return None if column is None else per_cent(column[place])


def _surest(ious: list[float], sure: list[float | None] | None, span: range) -> float | None:
    """The highest confidence, in per cent, in a mask that is mostly wrong."""
    known = [one for place in span if ious[place] < BAD and (one := _sure(sure, place)) is not None]
    return max(known, default=None)
