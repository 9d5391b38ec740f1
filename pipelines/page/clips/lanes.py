"""Several classes at once in every segment of a clip and modality: video parsing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.compute.events import Active, SplitEvents, read_events
from mettle_cache.pipelines.page.clips.clip_list import (
    ClipList,
    Item,
    Terms,
    per_cent,
    score_matrix,
    scores_of,
    stretches,
    surest,
)
from mettle_cache.pipelines.report.text import printable

MISSED, FALSE, HIT = 0, 1, 2
"""What a block of a lane is: annotated alone, predicted alone, or both."""

Confidence = dict[str, NDArray[np.float32]]


def lane_clips(tables: Sequence[pa.Table], terms: Terms) -> ClipList:
    """Items with ``l``, a lane for each modality and category that is annotated or that any run predicts.

    A lane is ``[modality, category, truth, predicted]``: ``truth`` blocks ``[start, end]`` and, for every run, blocks
    ``[start, end, state, confidence]``.
    """
    events = [read_events(table) for table in tables]
    sure = [_confidence(table, of_run) for table, of_run in zip(tables, events, strict=True)]
    first = events[0]
    clips = _media(tables[0], len(first.samples))
    items = [_item(events, sure, terms, place) for place in range(len(first.samples))]
    return ClipList(
        kind="lanes",
        items=items,
        media=[[clip] for clip in clips],
        names=[printable(name) for name in first.categories],
        groups=[printable(name) for name in first.categories],
        confident=any(one is not None for one in sure),
    )


def _media(table: pa.Table, samples: int) -> list[str]:
    """The clip of each sample; tables of an earlier version name the annotated file only, ``ID_START_END``."""
    each = len(table) // samples
    if "clip" in table.column_names:
        return [str(clip) for clip in table["clip"].to_pylist()[::each]]
    return [str(name).rsplit("_", 2)[0] for name in table["filename"].to_pylist()[::each]]


def _confidence(table: pa.Table, events: SplitEvents) -> Confidence | None:
    """Probabilities ``[R, C, T]`` by modality."""
    scores = score_matrix(table)
    if scores is None:
        return None
    categories = len(events.categories)
    samples, modalities = len(events.samples), list(events.annotated)
    grid = scores.reshape(samples, len(modalities), -1, categories).transpose(1, 0, 3, 2)
    return dict(zip(modalities, grid, strict=True))


def _item(events: Sequence[SplitEvents], sure: Sequence[Confidence | None], terms: Terms, place: int) -> Item:
    first = events[0]
    lanes: list[list[Any]] = []
    surest_of = [None] * len(events)
    for number, (modality, annotated) in enumerate(first.annotated.items()):
        for category in range(len(first.categories)):
            truth = annotated[place, category]
            found = [of_run.predicted[modality][place, category] for of_run in events]
            if not truth.any() and not any(one.any() for one in found):
                continue
            known = [None if one is None else one[modality][place, category] for one in sure]
            decided = [
                None if one is None else np.where(hit, one, 1 - one) for one, hit in zip(known, found, strict=True)
            ]
            for run, (one, hit) in enumerate(zip(decided, found, strict=True)):
                surest_of[run] = _larger(surest_of[run], surest(one, hit != truth))
            blocks = [_blocks(hit, truth, one) for hit, one in zip(found, decided, strict=True)]
            shown = [[start, end] for start, end, active in stretches(truth.tolist()) if active]
            lanes.append([number, category, shown, blocks])
    return {
        "id": printable(first.samples[place]),
        "n": next(iter(first.annotated.values())).shape[2],
        "s": scores_of(terms, place),
        "x": surest_of,
        "g": sorted({lane[1] for lane in lanes}),
        "l": sorted(lanes, key=lambda lane: (lane[0], not lane[2])),
    }


def _larger(one: Any, other: float | None) -> Any:
    return other if one is None else one if other is None else max(one, other)


def _blocks(found: Active, truth: Active, sure: NDArray[np.float32] | None) -> list[list[float | None]]:
    states = np.where(found, np.where(truth, HIT, FALSE), np.where(truth, MISSED, -1)).tolist()
    return [
        [start, end, state, None if sure is None else per_cent(float(np.mean(sure[start:end])))]
        for start, end, state in stretches(states)
        if state >= 0
    ]
