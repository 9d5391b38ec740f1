"""Samples of a split with what each run predicted, as the page's script reads them.

Shapes: R samples, T segments, F frames, C classes, M runs. Scores and confidences are in per cent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

Item = dict[str, Any]
Terms = Sequence[NDArray[np.float64] | None]
"""What each sample scored alone in the task's metric, ``[R]``, a run each; None where that is not known."""

_IDENTITY = ("row", "clip", "filename", "modality", "segment", "frame", "question")


@dataclass(kw_only=True)
class ClipList:
    """``kind`` tells the script how to draw an item.

    Every item has ``id``, the run's scores ``s [M]``, ``x [M]`` (how sure the run was of its surest mistake, None
    without one) and ``g``, the numbers of the ``groups`` that it can be found by. ``media`` are the ids of the clips
    whose pictures belong to each item. ``pictures`` are data URIs, which items name by number.
    """

    kind: str
    items: list[Item]
    media: list[list[str]]
    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    group_title: str = "category"
    confident: bool = False
    pictures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "items": self.items,
            "names": self.names,
            "groups": self.groups,
            "groupTitle": self.group_title,
            "confident": self.confident,
            "pictures": self.pictures,
        }

    def worst_first(self) -> list[int]:
        """Places of the items as the page sorts them by itself: by the first run's score, surest mistakes first."""
        return sorted(range(len(self.items)), key=lambda place: worst_key(self.items[place]))


def worst_key(item: Item) -> tuple[float, float]:
    """The lower, the worse: unknown scores last."""
    score, sure = (item["s"] or [None])[0], (item["x"] or [None])[0]
    return (np.inf if score is None else score, -(sure or 0.0))


def same_samples(table: pa.Table, other: pa.Table) -> bool:
    """Whether two prediction tables are of the same things in the same order."""
    columns = [name for name in _IDENTITY if name in table.column_names]
    return len(table) == len(other) and all(
        name in other.column_names and table[name].equals(other[name]) for name in columns
    )


def stretches(values: Sequence[Any]) -> Iterator[tuple[int, int, Any]]:
    """Start, end and value of each stretch of equal values."""
    start = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[start]:
            yield start, place, values[start]
            start = place


def score_matrix(table: pa.Table) -> NDArray[np.float32] | None:
    """The column ``scores`` as ``[rows, C]``; None in a table of an earlier version, which has none."""
    if "scores" not in table.column_names or not len(table):
        return None
    values = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(table), -1)


def per_cent(share: float | None) -> float | None:
    """A share of 1 in per cent with one digit; None stays, and what is no number becomes None."""
    return None if share is None or not np.isfinite(share) else round(100 * float(share), 1)


def rounded(score: float | None) -> float | None:
    """A score with two digits, as a page shows it."""
    return None if score is None or not np.isfinite(score) else round(float(score), 2)


def scores_of(terms: Terms, place: int) -> list[float | None]:
    """What every run scored on one sample."""
    return [None if one is None else rounded(one[place]) for one in terms]


def surest(confidence: ArrayLike | None, wrong: ArrayLike) -> float | None:
    """The highest confidence, in per cent, among what is ``wrong``; None without any."""
    if confidence is None or not np.any(wrong):
        return None
    return per_cent(float(np.max(np.asarray(confidence)[np.asarray(wrong)])))


def schema_names(table: pa.Table, key: str) -> list[str]:
    """Names that a table's metadata list under ``key``."""
    import json

    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    return [str(name) for name in json.loads(metadata.get(key.encode(), b"[]"))]
