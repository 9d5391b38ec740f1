"""Segmentation metrics: worked cases of docs/protocols/avs.md, "Scores", and a slow one threshold by threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mettle_cache.errors import RunError, UsageError
from mettle_cache.metrics.avs import (
    THRESHOLDS,
    frame_f_curve,
    frame_iou,
    global_f_measure,
    grouped_f_measure,
    mean_iou,
    predict_masks,
    probabilities,
)

SIDE = 6
FRAME = (SIDE, SIDE)
EMPTY, FULL = np.zeros(FRAME, bool), np.ones(FRAME, bool)
HALF = np.arange(SIDE * SIDE).reshape(FRAME) < SIDE * SIDE // 2


@pytest.mark.parametrize(
    ("predicted", "wanted", "iou"),
    [
        (EMPTY, EMPTY, 1.0),
        (FULL, EMPTY, 0.0),
        (HALF, EMPTY, 0.5),
        (FULL, HALF, 0.5),
        (HALF, HALF, 1.0),
        (~HALF, HALF, 0.0),
        (EMPTY, HALF, 0.0),
    ],
)
def test_worked_cases_of_the_iou(predicted, wanted, iou):
    assert frame_iou(predicted, wanted) == pytest.approx(iou, abs=1e-6)


def test_a_logit_of_zero_is_background():
    probability = probabilities(np.array([-1e30, -1.0, 0.0, 1.0, 1e30]))
    assert predict_masks(probability).tolist() == [False, False, False, True, True]
    np.testing.assert_allclose(probability, [0, 0.26894142, 0.5, 0.73105858, 1])
    assert THRESHOLDS[-1] == 1.0


def slow_iou(predicted, wanted):
    inside = union = 0
    for p, g in zip(predicted.ravel().tolist(), wanted.ravel().tolist(), strict=True):
        if wanted.any():
            inside, union = inside + (p and g), union + (p or g)
        else:
            inside, union = inside + (not p), union + 1
    return inside / (union + 1e-7)


def slow_curve(probability, wanted):
    """The published code's loop over 255 thresholds, in its order of operations."""
    curve = []
    for threshold in np.linspace(0, 1 - 1e-10, 255).astype(np.float32):
        y = probability >= threshold
        right = np.sum(y & wanted)
        precision, recall = right / (np.sum(y) + 1e-20), right / (np.sum(wanted) + 1e-20)
        curve.append(1.3 * precision * recall / (0.3 * precision + recall) if right else 0.0)
    return np.array(curve)


def slow_f_measure(probability, wanted, group):
    """Over videos ``[R, F, H, W]``, batch by batch."""
    best = []
    for start in range(0, len(wanted), group):
        curves = [
            slow_curve(p, g)
            for video in range(start, min(start + group, len(wanted)))
            for p, g in zip(probability[video], wanted[video], strict=True)
            if g.any()
        ]
        best.append(np.mean(curves, 0).max() if curves else 0.0)
    return 100 * np.mean(best)


# thresholds themselves among the values, where a >= decides
VALUES = st.one_of(
    st.floats(0, 1, width=32), st.sampled_from([float(t) for t in THRESHOLDS]), st.sampled_from([0.0, 0.5, 1.0])
)


@st.composite
def videos(draw):
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 2)), 3, 4)
    probability = draw(arrays.arrays(np.float32, shape, elements=VALUES))
    wanted = draw(arrays.arrays(np.bool_, shape))
    if draw(st.booleans()):
        wanted[0] = False
    return probability, wanted


@settings(max_examples=60, deadline=None)
@given(videos(), st.integers(1, 4))
def test_both_metrics_are_those_of_the_published_loops(case, group):
    probability, wanted = case
    predicted = predict_masks(probability)
    ious = frame_iou(predicted, wanted)
    expected = [[slow_iou(p, g) for p, g in zip(*pair, strict=True)] for pair in zip(predicted, wanted, strict=True)]
    np.testing.assert_allclose(ious, expected, rtol=1e-12)
    assert mean_iou(ious) == pytest.approx(100 * np.mean(expected))
    curves, counts = frame_f_curve(probability, wanted), wanted.any((-2, -1)).sum(1)
    np.testing.assert_allclose(curves[0, 0], slow_curve(probability[0, 0], wanted[0, 0]), rtol=1e-12)
    score = grouped_f_measure(curves.sum(1), counts, group=group)
    assert score == pytest.approx(slow_f_measure(probability, wanted, group), rel=1e-10, abs=1e-12)
    assert global_f_measure(curves.sum(1), counts) <= grouped_f_measure(curves.sum(1), counts, group=10**6) + 1e-9


@settings(max_examples=30, deadline=None)
@given(videos())
def test_the_truth_scores_100_and_its_opposite_nothing(case):
    _, wanted = case
    assert mean_iou(frame_iou(wanted, wanted)) == pytest.approx(100, abs=1e-4)
    assert mean_iou(frame_iou(~wanted, wanted)) == pytest.approx(0, abs=1e-4)
    counts = wanted.any((-2, -1)).sum(1)
    curves = frame_f_curve(wanted.astype(np.float32), wanted).sum(1)
    assert global_f_measure(curves, counts) == pytest.approx(100 if counts.any() else 0)


def two_videos():
    """The best threshold of one video is not that of the other."""
    wanted = np.stack([HALF, HALF])[:, None]
    probability = np.stack([np.where(HALF, 0.9, 0.6), np.where(HALF, 0.4, 0.1)])[:, None].astype(np.float32)
    return frame_f_curve(probability, wanted).sum(1), np.array([1, 1])


def test_the_f_measure_depends_on_the_size_of_the_group():
    curves, counts = two_videos()
    assert grouped_f_measure(curves, counts, group=1) == pytest.approx(100)
    assert grouped_f_measure(curves, counts, group=2) < 90
    assert grouped_f_measure(curves, counts, group=2) == global_f_measure(curves, counts)


def test_a_group_without_foreground_counts_as_nothing():
    curves, counts = two_videos()
    curves, counts = np.concatenate([curves, np.zeros((1, 255))]), np.array([1, 1, 0])
    assert grouped_f_measure(curves, counts, group=1) == pytest.approx(200 / 3)
    assert grouped_f_measure(np.zeros((2, 255)), [0, 0]) == 0


def test_what_is_refused():
    with pytest.raises(RunError, match="logits hold values that are not finite: the model has diverged"):
        probabilities(np.array([0.0, np.nan]))
    with pytest.raises(UsageError, match=r"predictions \(2, 2\) and masks \(6, 6\) must both be"):
        frame_iou(np.zeros((2, 2), bool), HALF)
    with pytest.raises(UsageError, match="the IoU of no frames at all is undefined"):
        mean_iou([])
    with pytest.raises(UsageError, match="the F-measure of no videos at all is undefined"):
        grouped_f_measure(np.zeros((0, 255)), [])
    with pytest.raises(UsageError, match=r"F-curves \(2, 255\) and frame counts \(3,\)"):
        global_f_measure(np.zeros((2, 255)), [1, 1, 1])
