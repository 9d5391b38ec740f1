"""Audio-visual event localisation on AVE: labels, prediction rules and segment accuracy.

Pure functions over arrays. Shapes: R annotation rows, T segments, C event categories. Labels are category indexes, and
``C`` itself is the background. Sources: docs/protocols/avel.md, "Annotation files" (labels) and "Segment accuracy" (the
metric).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mettle_cache.errors import DatasetError, RunError, UsageError

Labels = NDArray[np.int64]


def segment_labels(
    categories: Sequence[str | None],
    starts: Sequence[int],
    ends: Sequence[int],
    *,
    vocabulary: Sequence[str],
    segments: int,
) -> Labels:
    """Rebuild the labels ``[R, T]`` of annotation rows: second t in [start, end) has the row's category.

    A row without a category, None, is all background.

    Raises
    ------
    DatasetError
        A category outside the vocabulary, or an interval that is not within 0 to T; the row is named.
    """
    index = {name: position for position, name in enumerate(vocabulary)}
    labels = np.full((len(categories), segments), len(vocabulary), dtype=np.int64)
    for row, (category, start, end) in enumerate(zip(categories, starts, ends, strict=True)):
        if category is None:
            continue
        if category not in index:
            raise DatasetError(f"sample {row}: category '{category}' is not one of the {len(index)} categories")
        if not 0 <= start <= end <= segments:
            raise DatasetError(f"sample {row}: the event from {start} to {end} s is not within 0 to {segments} s")
        labels[row, start:end] = index[category]
    return labels


def predict_event_and_class(event_logits: ArrayLike, class_logits: ArrayLike) -> Labels:
    """Labels ``[R, T]`` of a head that gives one class a video and an event decision a segment.

    ``event_logits`` is ``[R, T]``, an event where a logit is above 0 (strictly: sigmoid > 0.5); ``class_logits`` is
    ``[R, C]``, the first of the highest wins.
    """
    events, classes = _finite(event_logits, 2, "event logits"), _finite(class_logits, 2, "class logits")
    if len(events) != len(classes):
        raise UsageError(f"event logits of {len(events)} videos, but class logits of {len(classes)}")
    winner = classes.argmax(axis=1)[:, None]
    labels: Labels = np.where(events > 0, winner, classes.shape[1]).astype(np.int64)
    return labels


def predict_segments(logits: ArrayLike) -> Labels:
    """Labels ``[R, T]`` of a head with one score a category and background, ``[R, T, C + 1]``; first index on ties."""
    labels: Labels = _finite(logits, 3, "segment logits").argmax(axis=2).astype(np.int64)
    return labels


def segment_accuracy(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Percentage of segments, background included, whose label is right: the exact ratio over all of ``[R, T]``.

    Peers average the accuracies of batches, which gives the videos of a short last batch more weight; this does not.
    """
    right, total = _count(*_pair(predictions, targets))
    return 100.0 * right / total


def category_accuracy(predictions: ArrayLike, targets: ArrayLike, *, vocabulary: Sequence[str]) -> dict[str, float]:
    """Percentage of right segments by target category, then ``background``; those without a segment are left out.

    A vocabulary that has a category called ``background`` of its own is refused.
    """
    if "background" in vocabulary:
        raise UsageError("a category is called 'background', which means no event here")
    predicted, truth = _pair(predictions, targets)
    names = [*vocabulary, "background"]
    scores: dict[str, float] = {}
    for label, name in enumerate(names):
        chosen = truth == label
        if chosen.any():
            right, total = _count(predicted[chosen], truth[chosen])
            scores[name] = 100.0 * right / total
    return scores


def _count(predictions: Labels, targets: Labels) -> tuple[int, int]:
    return int(np.count_nonzero(predictions == targets)), targets.size


def _pair(predictions: ArrayLike, targets: ArrayLike) -> tuple[Labels, Labels]:
    predicted, truth = np.asarray(predictions), np.asarray(targets)
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise UsageError(f"predictions {predicted.shape} and targets {truth.shape} must both be [videos, segments]")
    if truth.size == 0:
        raise UsageError("accuracy of no segments at all is undefined")
    return predicted, truth


def _finite(logits: ArrayLike, dimensions: int, what: str) -> NDArray[np.floating]:
    values = np.asarray(logits)
    if values.ndim != dimensions:
        raise UsageError(f"{what} of shape {values.shape} must have {dimensions} dimensions")
    if not np.isfinite(values).all():
        # argmax would pick a NaN and give a number for a model that has diverged
        raise RunError(f"{what} hold values that are not finite: the model has diverged")
    return values
