"""One class or background for every segment of a clip: event localisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.pipelines.page.clips.clip_list import (
    ClipList,
    Terms,
    per_cent,
    schema_names,
    score_matrix,
    scores_of,
    stretches,
    surest,
)
from mettle_cache.pipelines.report.text import printable

Labels = NDArray[np.int64]
Blocks = list[list[float | None]]


def segment_grids(table: pa.Table) -> tuple[Labels, Labels]:
    """Annotated and predicted class numbers, ``[R, T]`` each."""
    segments = int(np.max(table["segment"].to_numpy())) + 1
    target, predicted = (
        np.asarray(table[name].to_numpy(), np.int64).reshape(-1, segments) for name in ("target", "prediction")
    )
    return target, predicted


def segment_clips(tables: Sequence[pa.Table], terms: Terms) -> ClipList:
    """Items with blocks ``t [start, end, class]`` of the truth and, for every run, ``p [..., right, confidence]``.

    ``tables`` are those of M runs on the same samples.
    """
    names = schema_names(tables[0], "categories")
    target, _ = segment_grids(tables[0])
    predicted = [segment_grids(table)[1] for table in tables]
    confidence = [_confidence(table, labels) for table, labels in zip(tables, predicted, strict=True)]
    clips = tables[0]["clip"].to_pylist()[:: target.shape[1]]
    background = len(names) - 1
    items = []
    for place, clip in enumerate(clips):
        truth = target[place]
        wrong = [labels[place] != truth for labels in predicted]
        sure = [None if one is None else one[place] for one in confidence]
        items.append(
            {
                "id": printable(clip),
                "n": target.shape[1],
                "s": scores_of(terms, place),
                "x": [surest(one, errors) for one, errors in zip(sure, wrong, strict=True)],
                "g": sorted({int(label) for label in truth if label != background}) or [background],
                "t": [[start, end, int(label)] for start, end, label in stretches(truth.tolist())],
                "p": [_blocks(labels[place], truth, one) for labels, one in zip(predicted, sure, strict=True)],
            }
        )
    shown = [printable(name) for name in names]
    return ClipList(
        kind="segments",
        items=items,
        media=[[clip] for clip in clips],
        names=shown,
        groups=shown,
        confident=any(one is not None for one in confidence),
    )


def _confidence(table: pa.Table, predicted: Labels) -> NDArray[np.float32] | None:
    """How sure a run is of what it predicts, ``[R, T]``."""
    scores = score_matrix(table)
    if scores is None:
        return None
    return scores[np.arange(len(scores)), predicted.reshape(-1)].reshape(predicted.shape)


def _blocks(predicted: Labels, truth: Labels, sure: NDArray[np.float32] | None) -> Blocks:
    """Stretches of one predicted class that are right or wrong throughout, with their mean confidence."""
    pairs = list(zip(predicted.tolist(), (predicted == truth).tolist(), strict=True))
    return [
        [start, end, label, int(right), None if sure is None else per_cent(float(np.mean(sure[start:end])))]
        for start, end, (label, right) in stretches(pairs)
    ]
