"""How a run does by class: tables with support, confusion, and how its scores are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.compute.events import Active, read_events
from mettle_cache.pipelines.page.clips.clip_list import rounded, schema_names
from mettle_cache.pipelines.page.clips.masks import MaskSample
from mettle_cache.pipelines.page.clips.segments import segment_grids
from mettle_cache.pipelines.report.text import printable

Counts = NDArray[np.int64]
Row = list[Any]
_DERIVED = ("support", "predicted", "recall", "precision", "F1")
_BINS = 10


def class_results(table: pa.Table, kind: str, samples: Mapping[int, MaskSample]) -> dict[str, Any]:
    """``tables`` (title, columns, rows), ``confusion`` (names, counts) and ``histogram`` of one run, as JSON.

    ``kind`` is that of a clip list; what a kind does not give is missing. Shares are in per cent, None where nothing
    is to be shared.
    """
    if kind == "segments":
        return _of_segments(table)
    if kind == "lanes":
        return _of_lanes(table)
    if kind == "answers":
        return _of_answers(table)
    return _of_masks(table, samples) if kind == "masks" else {}


def confusion_counts(truth: Sequence[int], predicted: Sequence[int], classes: int) -> Counts:
    """How often each class was predicted where each is true, ``[true, predicted]``."""
    pairs = np.asarray(truth, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_rows(names: Sequence[str], support: Counts, predicted: Counts, right: Counts) -> list[Row]:
    """A row a class that is true or predicted anywhere: name, support, predictions, recall, precision, F1."""
    return [
        [
            printable(name),
            int(there),
            int(claimed),
            _share(hits, there),
            _share(hits, claimed),
            _share(2 * hits, there + claimed),
        ]
        for name, there, claimed, hits in zip(names, support, predicted, right, strict=True)
        if there or claimed
    ]


def _of_segments(table: pa.Table) -> dict[str, Any]:
    names = schema_names(table, "categories")
    target, predicted = segment_grids(table)
    counts = confusion_counts(target.ravel().tolist(), predicted.ravel().tolist(), len(names))
    rows = class_rows(names, counts.sum(1), counts.sum(0), counts.diagonal())
    return {
        "tables": [_table("Every category, over segments", ("category", *_DERIVED), rows)],
        "confusion": _used(names, counts, "segments"),
    }


def _of_lanes(table: pa.Table) -> dict[str, Any]:
    events = read_events(table)
    tables = []
    pairs = [(name, events.annotated[name], events.predicted[name]) for name in events.annotated]
    if {"audio", "visual"} <= set(events.annotated):
        both = [one["audio"] & one["visual"] for one in (events.annotated, events.predicted)]
        pairs.append(("audio-visual", both[0], both[1]))
    for modality, truth, found in pairs:
        rows = class_rows(events.categories, _total(truth), _total(found), _total(truth & found))
        tables.append(_table(f"{modality}: every category, over segments", ("category", *_DERIVED), rows))
    return {"tables": tables}


def _total(active: Active) -> Counts:
    """Segments ``[R, C, T]`` by category."""
    return np.asarray(active.sum((0, 2)), np.int64)


def _of_answers(table: pa.Table) -> dict[str, Any]:
    truth, given = table["answer"].to_pylist(), table["prediction"].to_pylist()
    names = list(dict.fromkeys([*truth, *given]))
    number = {name: place for place, name in enumerate(names)}
    counts = confusion_counts([number[one] for one in truth], [number[one] for one in given], len(names))
    order = np.argsort(-counts.sum(1), kind="stable")
    names, counts = [names[int(place)] for place in order], counts[np.ix_(order, order)]
    types: dict[str, list[bool]] = {}
    for modality, kind, one, other in zip(
        table["modality"].to_pylist(), table["kind"].to_pylist(), truth, given, strict=True
    ):
        types.setdefault(f"{modality} {kind}", []).append(one == other)
    by_type = [[printable(name), len(right), _share(sum(right), len(right))] for name, right in types.items()]
    rows = class_rows(names, counts.sum(1), counts.sum(0), counts.diagonal())
    return {
        "tables": [
            _table("Types of questions", ("type", "support", "accuracy"), by_type),
            _table("Every answer", ("answer", *_DERIVED), rows),
        ],
        "confusion": _used(names, counts, "questions"),
    }


def _of_masks(table: pa.Table, samples: Mapping[int, MaskSample]) -> dict[str, Any]:
    ious = np.asarray(table["iou"].to_numpy(), np.float64)
    groups: dict[str, list[float]] = {}
    for row, iou in zip(table["row"].to_pylist(), ious, strict=True):
        if row in samples and samples[row].category:
            groups.setdefault(samples[row].category, []).append(float(iou))
    rows = [[printable(name), len(own), rounded(100 * float(np.mean(own)))] for name, own in sorted(groups.items())]
    counts, _ = np.histogram(np.clip(ious, 0, 1), bins=_BINS, range=(0, 1))
    return {
        "tables": [_table("Every category", ("category", "frames", "mIoU"), rows)] if rows else [],
        "histogram": {"title": "IoU of single frames", "counts": counts.tolist(), "x": "IoU (%)", "y": "frames"},
    }


def _table(title: str, columns: Sequence[str], rows: list[Row]) -> dict[str, Any]:
    return {"title": title, "columns": list(columns), "rows": rows}


def _used(names: Sequence[str], counts: Counts, unit: str) -> dict[str, Any]:
    """The confusion among classes that are true or predicted anywhere."""
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    return {
        "names": [printable(names[int(place)]) for place in used],
        "counts": counts[np.ix_(used, used)].tolist(),
        "unit": unit,
    }


def _share(part: float, whole: float) -> float | None:
    return rounded(100 * float(part) / float(whole)) if whole else None
