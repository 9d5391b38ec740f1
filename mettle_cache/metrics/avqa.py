"""Audio-visual question answering on MUSIC-AVQA: accuracy by the nine types, pooled averages, and the blind floor.

Pure functions over arrays. Shapes: R questions, C answers. Answers are indexes; -1 is one that training never saw,
which no prediction matches. Source: docs/protocols/avqa.md, "Accuracy".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mettle_cache.errors import RunError, UsageError

TYPES = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""The nine types, in the order of the published tables."""

Answers = NDArray[np.int64]


def predict_answers(logits: ArrayLike) -> Answers:
    """The answer ``[R]`` of logits ``[R, C]``: the first of the highest.

    Raises
    ------
    RunError
        A logit is not finite: the model has diverged.
    """
    values = np.asarray(logits)
    if values.ndim != 2:
        raise UsageError(f"answer logits of shape {values.shape} must be [questions, answers]")
    if not np.isfinite(values).all():
        # argmax would pick a NaN and give a number for a model that has diverged
        raise RunError("answer logits hold values that are not finite: the model has diverged")
    answers: Answers = values.argmax(axis=1).astype(np.int64)
    return answers


def answer_accuracies(predictions: ArrayLike, targets: ArrayLike, types: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Percentages of right answers: ``accuracy`` over all, then by modality, then by type (``Audio Counting``).

    Averages are pooled over questions: that of a modality is not the mean of its types, the whole not that of the
    three. ``types`` are (modality, kind) of each question; those that no question has are left out.

    Raises
    ------
    UsageError
        No questions, arrays that do not fit, or a type that is none of the nine.
    """
    predicted, truth = np.asarray(predictions), np.asarray(targets)
    if predicted.shape != truth.shape or truth.shape != (len(types),):
        raise UsageError(f"{predicted.shape} predictions, {truth.shape} targets and {len(types)} types do not fit")
    if not len(types):
        raise UsageError("the accuracy of no answers at all is undefined")
    unknown = next((pair for pair in types if pair[1] not in TYPES.get(pair[0], ())), None)
    if unknown is not None:
        raise UsageError(f"question type {unknown[0]} {unknown[1]} is none of the nine")
    right = (predicted == truth) & (truth >= 0)
    modality_of = np.array([modality for modality, _ in types])
    kind_of = np.array([kind for _, kind in types])
    chosen = {"accuracy": np.ones(len(types), bool)}
    chosen |= {modality: modality_of == modality for modality in TYPES}
    for modality, kinds in TYPES.items():
        chosen |= {f"{modality} {kind}": (modality_of == modality) & (kind_of == kind) for kind in kinds}
    return {name: 100.0 * int(right[mask].sum()) / int(mask.sum()) for name, mask in chosen.items() if mask.any()}


def most_common_answers(templates: Sequence[str], answers: Sequence[str]) -> dict[str, str]:
    """The most frequent answer to each template, the first of equals: what a model without eyes and ears can learn."""
    counts: dict[str, Counter[str]] = {}
    for template, answer in zip(templates, answers, strict=True):
        counts.setdefault(template, Counter())[answer] += 1
    return {template: counter.most_common(1)[0][0] for template, counter in counts.items()}


def blind_answers(templates: Sequence[str], known: Mapping[str, str], *, otherwise: str) -> list[str]:
    """An answer to each question by its template alone, ``otherwise`` to those that ``known`` lacks."""
    return [known.get(template, otherwise) for template in templates]
