"""Audio-visual segmentation on AVSBench: mIoU and F-measure, as its published code computes them.

Source: docs/protocols/avs.md, "Scores".

Pure functions over arrays. Shapes: R videos, F frames, pixels ``[H, W]``. Everything is counted in whole pixels, and a
frame's numbers depend on that frame alone, so a split can be scored batch by batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mettle_cache.errors import RunError, UsageError

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

BETA_SQUARED = 0.3
THRESHOLDS: NDArray[np.float32] = np.linspace(0, 1 - 1e-10, 255).astype(np.float32)
"""In float32 the last is exactly 1."""

GROUP = 4
"""Videos whose F-curve is averaged before its maximum is taken: AVSBench's and DG-SCT's evaluation batch."""


def probabilities(logits: ArrayLike) -> NDArray[np.float32]:
    """Sigmoid of logits, in float32 as the peers have it.

    Raises
    ------
    RunError
        A logit is not finite.
    """
    values = np.asarray(logits, dtype=np.float32)
    if not np.isfinite(values).all():
        raise RunError("the mask's logits hold values that are not finite: the model has diverged")
    # exp of the negative magnitude cannot overflow
    small = np.exp(-np.abs(values))
    result: NDArray[np.float32] = np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return result


def predict_masks(probability: NDArray[np.float32]) -> Masks:
    """Foreground where the probability is above one half, strictly: a logit of 0 is background."""
    masks: Masks = probability > 0.5
    return masks


def frame_iou(predicted: Masks, truth: Masks) -> Floats:
    """Intersection over union of each frame, 0 to 1: masks ``[..., H, W]`` to ``[...]``.

    A frame without foreground is not skipped: there it is the share of pixels that are rightly background.
    """
    _check_pair(predicted, truth)
    both = (predicted & truth).sum((-2, -1))
    either = (predicted | truth).sum((-2, -1))
    neither = (~predicted & ~truth).sum((-2, -1))
    empty = ~truth.any((-2, -1))
    pixels = truth.shape[-2] * truth.shape[-1]
    iou: Floats = np.where(empty, neither, both) / (np.where(empty, pixels, either) + 1e-7)
    return iou


def frame_f_curve(probability: NDArray[np.float32], truth: Masks) -> Floats:
    """F at every threshold, ``[..., 255]``: a pixel is foreground from the threshold on.

    ``F = 1.3 p r / (0.3 p + r)`` of precision and recall, 0 where both are, and for a frame without foreground.
    """
    _check_pair(probability, truth)
    frames = truth.shape[:-2]
    flat, target = probability.reshape(-1, *truth.shape[-2:]), truth.reshape(-1, *truth.shape[-2:])
    curves = np.zeros((len(flat), len(THRESHOLDS)))
    for number, (values, mask) in enumerate(zip(flat, target, strict=True)):
        if mask.any():
            curves[number] = _f_curve(values, mask)
    return curves.reshape(*frames, len(THRESHOLDS))


def mean_iou(ious: ArrayLike) -> float:
    """Per cent over all frames of all videos, ``[R, F]``."""
    values = np.asarray(ious, dtype=np.float64)
    if values.size == 0:
        raise UsageError("the IoU of no frames at all is undefined")
    return 100.0 * float(values.mean())


def grouped_f_measure(curve_sums: ArrayLike, counts: ArrayLike, *, group: int = GROUP) -> float:
    """Per cent: the mean over groups of ``group`` consecutive videos of the best F of each group's mean curve.

    ``curve_sums`` ``[R, 255]`` are sums of :func:`frame_f_curve` over a video's frames with foreground, ``counts``
    ``[R]`` how many those are. A group without any counts as 0. The number depends on the group's size: a smaller group
    finds more favourable thresholds.
    """
    sums, frames = _curves(curve_sums, counts)
    best = [_best(sums[start : start + group], frames[start : start + group]) for start in range(0, len(sums), group)]
    return 100.0 * float(np.mean(best))


def global_f_measure(curve_sums: ArrayLike, counts: ArrayLike) -> float:
    """Per cent: the best F of the mean curve of all frames with foreground; one threshold for all."""
    return 100.0 * _best(*_curves(curve_sums, counts))


def _f_curve(values: NDArray[np.float32], mask: Masks) -> Floats:
    """F at every threshold of one frame with foreground."""
    # how many thresholds a pixel reaches; from there on it is background
    reached = np.searchsorted(THRESHOLDS, values.ravel(), side="right")
    bins = len(THRESHOLDS) + 1
    predicted = _from_above(np.bincount(reached, minlength=bins))
    right = _from_above(np.bincount(reached[mask.ravel()], minlength=bins))
    precision, recall = right / (predicted + 1e-20), right / (mask.sum() + 1e-20)
    below = BETA_SQUARED * precision + recall
    curve: Floats = np.divide((1 + BETA_SQUARED) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return curve


def _from_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels at or above each threshold, of pixels by the number of thresholds that they reach."""
    totals: NDArray[np.int64] = counts[::-1].cumsum()[::-1][1:]
    return totals


def _best(sums: Floats, frames: Floats) -> float:
    total = frames.sum()
    return float((sums.sum(0) / total).max()) if total else 0.0


def _curves(curve_sums: ArrayLike, counts: ArrayLike) -> tuple[Floats, Floats]:
    sums, frames = np.asarray(curve_sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if sums.ndim != 2 or frames.shape != sums.shape[:1]:
        raise UsageError(
            f"F-curves {sums.shape} and frame counts {frames.shape} must be [videos, thresholds], [videos]"
        )
    if len(sums) == 0:
        raise UsageError("the F-measure of no videos at all is undefined")
    return sums, frames


def _check_pair(values: NDArray, truth: Masks) -> None:
    if values.shape != truth.shape or truth.ndim < 2:
        raise UsageError(f"predictions {values.shape} and masks {truth.shape} must both be [..., height, width]")
