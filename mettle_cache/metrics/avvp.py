"""Audio-visual video parsing on LLP: dense events, prediction rules and the ten F-scores.

Source: docs/protocols/avvp.md, "F-scores".

Pure functions over arrays. Shapes: R videos, C categories, T segments, E events of a category, at most (T + 1) // 2.
The published code scores one video at a time, and so does this: every average is over categories within a video first,
then over videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mettle_cache.errors import DatasetError, RunError, UsageError

Active = NDArray[np.bool_]
THRESHOLD = 0.5
OVERLAP = 0.5
"""Of the union, inclusive, from which on two events are one."""


@dataclass(frozen=True)
class Parsing:
    """Which category is heard and which is seen in which segment, ``[R, C, T]`` each."""

    audio: Active
    visual: Active

    @property
    def audio_visual(self) -> Active:
        """Heard and seen in the same segment: derived, in annotations as in predictions."""
        return self.audio & self.visual


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives, ``[R, C]`` each."""

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def paint_events(
    labels: Sequence[Sequence[str]],
    starts: Sequence[Sequence[int]],
    ends: Sequence[Sequence[int]],
    *,
    vocabulary: Sequence[str],
    segments: int,
) -> Active:
    """Where each video's events are, ``[R, C, T]``: segment t is active if start <= t < end.

    Raises
    ------
    DatasetError
        A label outside the vocabulary, times that are not within 0 to T, or lists of different lengths; the video is
        named by its position.
    """
    index = {name: position for position, name in enumerate(vocabulary)}
    active = np.zeros((len(labels), len(vocabulary), segments), dtype=np.bool_)
    for row, (names, onsets, offsets) in enumerate(zip(labels, starts, ends, strict=True)):
        if not len(names) == len(onsets) == len(offsets):
            counts = f"{len(names)} labels, {len(onsets)} starts and {len(offsets)} ends"
            raise DatasetError(f"sample {row}: its events have {counts}")
        for label, start, end in zip(names, onsets, offsets, strict=True):
            if label not in index:
                raise DatasetError(f"sample {row}: label '{label}' is not one of the {len(index)} categories")
            if not 0 <= start <= end <= segments:
                raise DatasetError(f"sample {row}: the event from {start} to {end} s is not within 0 to {segments} s")
            active[row, index[label], start:end] = True
    return active


def parse(video: ArrayLike, audio: ArrayLike, visual: ArrayLike, *, mask: bool = True) -> Parsing:
    """Events from probabilities of the video ``[R, C]`` and of segments, heard and seen ``[R, T, C]`` each.

    A segment is active from ``THRESHOLD`` on, inclusive. With ``mask``, only in categories that the video as a whole
    has: the fused probability decides for both modalities.
    """
    whole, heard, seen = _finite(video, 2, "video"), _finite(audio, 3, "audio"), _finite(visual, 3, "visual")
    if heard.shape != seen.shape or whole.shape != heard.shape[::2]:
        raise UsageError(f"probabilities of shapes {whole.shape}, {heard.shape} and {seen.shape} do not fit together")
    occurs = (whole >= THRESHOLD)[:, :, None] if mask else np.True_
    return Parsing(*((frames.transpose(0, 2, 1) >= THRESHOLD) & occurs for frames in (heard, seen)))


def parsing_scores(predicted: Parsing, annotated: Parsing) -> dict[str, float]:
    """The ten F-scores in percent and their mean.

    ``segment_a``, ``_v``, ``_av``, their mean ``_type_av``, and ``_event_av``, for which a video's counts of heard and
    seen categories are added up; the same five at event level (``event_...``); ``average``.

    Raises
    ------
    UsageError
        Shapes that differ, or no videos.
    """
    scores: dict[str, float] = {}
    for level, count in (("segment", segment_counts), ("event", event_counts)):
        audio = count(predicted.audio, annotated.audio)
        visual = count(predicted.visual, annotated.visual)
        both = count(predicted.audio_visual, annotated.audio_visual)
        values = {
            name: 100.0 * float(video_scores(counts).mean())
            for name, counts in (("a", audio), ("v", visual), ("av", both), ("event_av", audio + visual))
        }
        values["type_av"] = (values["a"] + values["v"] + values["av"]) / 3
        scores |= {f"{level}_{name}": values[name] for name in ("a", "v", "av", "type_av", "event_av")}
    return {**scores, "average": sum(scores.values()) / len(scores)}


def video_scores(counts: Counts) -> NDArray[np.float64]:
    """F of each video ``[R]``: the mean over the categories that occur, predicted or annotated; 1 if none does."""
    occurring = counts.tp + counts.fp + counts.fn > 0
    f = 2 * counts.tp / np.where(occurring, 2 * counts.tp + counts.fp + counts.fn, 1)
    number = occurring.sum(axis=1)
    scores: NDArray[np.float64] = np.where(number > 0, f.sum(axis=1) / np.maximum(number, 1), 1.0)
    return scores


def segment_counts(predicted: ArrayLike, annotated: ArrayLike) -> Counts:
    """Segments of each video and category, from ``[R, C, T]`` each."""
    ours, truth = _pair(predicted, annotated)
    return Counts((ours & truth).sum(axis=2), (ours & ~truth).sum(axis=2), (~ours & truth).sum(axis=2))


def event_counts(predicted: ArrayLike, annotated: ArrayLike) -> Counts:
    """Events of each video and category, from ``[R, C, T]`` each; an event is a run of active segments.

    A predicted event is right if any annotated one overlaps it enough, an annotated event is missed if no predicted one
    does, as in the published code, which pairs nothing off. It need not: there is a gap between two runs, so they
    cannot both share half of the union with the same event.
    """
    ours, truth = _pair(predicted, annotated)
    shape, segments = ours.shape[:2], ours.shape[2]
    first, second = _runs(ours.reshape(-1, segments)), _runs(truth.reshape(-1, segments))
    starts = np.maximum(first[0][:, :, None], second[0][:, None, :])
    ends = np.minimum(first[1][:, :, None], second[1][:, None, :])
    shared = np.maximum(ends - starts, 0)
    lengths, others = first[1] - first[0], second[1] - second[0]
    union = lengths[:, :, None] + others[:, None, :] - shared
    # where two events do not meet, nothing is shared and the union is not: padding included, unless both are padding
    matching = (shared >= OVERLAP * union) & (union > 0)
    hit, detected = matching.any(axis=2), matching.any(axis=1)
    tp, fp = hit.sum(axis=1), ((lengths > 0) & ~hit).sum(axis=1)
    fn = ((others > 0) & ~detected).sum(axis=1)
    return Counts(tp.reshape(shape), fp.reshape(shape), fn.reshape(shape))


def category_scores(
    predicted: Parsing, annotated: Parsing, *, vocabulary: Sequence[str]
) -> dict[str, dict[str, float]]:
    """F in percent of each category over the segments of all videos: ``{"a": {name: F}, "v": ..., "av": ...}``.

    For a look at where a model is weak: no published number is averaged like this. Categories that neither occur nor
    are predicted are left out.
    """
    parts: Mapping[str, tuple[Active, Active]] = {
        "a": (predicted.audio, annotated.audio),
        "v": (predicted.visual, annotated.visual),
        "av": (predicted.audio_visual, annotated.audio_visual),
    }
    scores: dict[str, dict[str, float]] = {}
    for part, pair in parts.items():
        counts = segment_counts(*pair)
        tp, wrong = counts.tp.sum(axis=0), (counts.fp + counts.fn).sum(axis=0)
        scores[part] = {
            name: float(100 * 2 * tp[place] / (2 * tp[place] + wrong[place]))
            for place, name in enumerate(vocabulary)
            if tp[place] + wrong[place]
        }
    return scores


def _runs(active: Active) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends ``[rows, E]`` of the runs in each row of ``[rows, T]``, in order; unused places are 0 and 0."""
    rows, segments = active.shape
    steps = np.diff(np.pad(active.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]
    # the n-th run of all rows is the n-th less those of earlier rows of its own row
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts, ends = np.zeros((2, rows, (segments + 1) // 2), dtype=np.int64)
    starts[row, place], ends[row, place] = start, end
    return starts, ends


def _pair(predicted: ArrayLike, annotated: ArrayLike) -> tuple[Active, Active]:
    ours, truth = np.asarray(predicted, dtype=np.bool_), np.asarray(annotated, dtype=np.bool_)
    if ours.shape != truth.shape or truth.ndim != 3:
        shapes = f"predictions {ours.shape} and annotations {truth.shape}"
        raise UsageError(f"{shapes} must both be [videos, categories, segments]")
    if not len(truth):
        raise UsageError("scores of no videos at all are undefined")
    return ours, truth


def _finite(values: ArrayLike, dimensions: int, what: str) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != dimensions:
        raise UsageError(f"{what} probabilities of shape {array.shape} must have {dimensions} dimensions")
    if not np.isfinite(array).all():
        # a comparison with NaN is False, which would give a number for a model that has diverged
        raise RunError(f"{what} probabilities hold values that are not finite: the model has diverged")
    return array
