"""Events of a split, segment by segment, as a task's prediction table tells them: annotated and predicted.

AVEL's table has one class or background a segment, AVVP's a list of classes a segment and modality. Shapes: R samples,
C categories, T segments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.errors import UsageError

Active = NDArray[np.bool_]

BOTH = "audio-visual"
"""The name of what is seen and heard at once, where modalities are not told apart."""


@dataclass(frozen=True)
class SplitEvents:
    """``annotated`` and ``predicted`` by modality, ``[R, C, T]``; the modality is :data:`BOTH` for AVEL.

    ``samples`` names the R samples. ``scores`` are the probabilities of every category, as ``predicted``; empty for a
    table that an earlier version wrote.
    """

    categories: tuple[str, ...]
    samples: tuple[str, ...]
    annotated: Mapping[str, Active]
    predicted: Mapping[str, Active]
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def read_events(table: pa.Table) -> SplitEvents:
    """The events in a prediction table.

    Raises
    ------
    UsageError
        It is not one of events in segments.
    """
    names = json.loads((table.schema.metadata or {}).get(b"categories", b"[]"))
    if not names or not {"segment", "target", "prediction"} <= set(table.column_names):
        raise UsageError("the task's predictions are no events in segments")
    categories = tuple(name for name in names if name != "background")
    segments = int(np.max(table["segment"].to_numpy())) + 1
    modalities = list(dict.fromkeys(table["modality"].to_pylist())) if "modality" in table.column_names else [BOTH]
    shape = (len(table) // (segments * len(modalities)), len(modalities), segments)
    active = [_active(table[column].to_pylist(), len(names), shape) for column in ("target", "prediction")]
    annotated, predicted = (
        {modality: values[:, place, : len(categories)] for place, modality in enumerate(modalities)}
        for values in active
    )
    samples = table["clip" if "clip" in table.column_names else "filename"].to_pylist()
    scores = {}
    if "scores" in table.column_names:
        listed = table["scores"].combine_chunks().flatten().to_numpy().reshape(*shape, len(names)).swapaxes(-1, -2)
        scores = {modality: listed[:, place, : len(categories)] for place, modality in enumerate(modalities)}
    return SplitEvents(categories, tuple(samples[:: segments * len(modalities)]), annotated, predicted, scores)


def segment_classes(active: Active, *, several: int = -2) -> NDArray[np.int64]:
    """The class of each segment ``[R, T]``: -1 where there is none, ``several`` where there is more than one."""
    counts = active.sum(axis=1)
    classes = np.where(counts == 0, -1, active.argmax(axis=1))
    return np.where(counts > 1, several, classes).astype(np.int64)


def _active(cells: Sequence[int | Sequence[int]], categories: int, shape: tuple[int, int, int]) -> Active:
    """``[R, modalities, C, T]`` of a table's cells, each a category number or a list of them."""
    active = np.zeros((len(cells), categories), np.bool_)
    for place, cell in enumerate(cells):
        active[place, cell] = True
    return active.reshape(*shape, categories).swapaxes(-1, -2)
