import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mettle_cache.errors import DatasetError, RunError, UsageError
from mettle_cache.metrics.avel import (
    category_accuracy,
    predict_event_and_class,
    predict_segments,
    segment_accuracy,
    segment_labels,
)

CATEGORIES = ["Church bell", "Male speech, man speaking", "Bark"]
LABELS = hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 10)), elements=st.integers(0, 3))


def test_labels_are_the_category_inside_the_interval_and_background_outside():
    labels = segment_labels(["Bark", "Church bell"], [2, 0], [5, 10], vocabulary=CATEGORIES, segments=10)
    assert labels.tolist() == [[3, 3, 2, 2, 2, 3, 3, 3, 3, 3], [0] * 10]


def test_row_with_an_empty_interval_is_all_background():
    # row 26 of the published file (VWi2ENBuTbw, Church bell, 0-0)
    assert (segment_labels(["Church bell"], [0], [0], vocabulary=CATEGORIES, segments=10) == 3).all()


@pytest.mark.parametrize("interval", [(-1, 4), (5, 3), (0, 11)])
def test_impossible_intervals_are_refused(interval):
    with pytest.raises(DatasetError, match=r"sample 1: the event from .* is not within 0 to 10 s"):
        segment_labels(["Bark"] * 2, [0, interval[0]], [1, interval[1]], vocabulary=CATEGORIES, segments=10)


def test_unknown_category_is_refused():
    with pytest.raises(DatasetError, match=r"sample 0: category 'Meow' is not one of the 3"):
        segment_labels(["Meow"], [0], [1], vocabulary=CATEGORIES, segments=10)


def test_event_head_uses_one_class_a_video_and_a_strict_threshold():
    events = [[-1.0, 0.0, 1e-6, 5.0], [9.0, 9.0, -9.0, 9.0]]
    predictions = predict_event_and_class(events, [[0.0, 2.0, 2.0], [1.0, -1.0, 0.5]])
    # a logit of exactly 0 is background; the first of two equal classes wins
    assert predictions.tolist() == [[3, 3, 1, 1], [0, 0, 3, 0]]


def test_segment_head_takes_the_first_of_equal_scores():
    assert predict_segments([[[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]]]).tolist() == [[0, 1]]


def test_worked_accuracy():
    # video 1 has the wrong class: only its background counts; video 2 misses one second
    targets = [[3, 3, 2, 2, 2, 3, 3, 3, 3, 3], [0] * 10]
    predictions = [[3, 3, 1, 1, 1, 3, 3, 3, 3, 3], [0] * 9 + [3]]
    assert segment_accuracy(predictions, targets) == pytest.approx(100 * 16 / 20)


def test_accuracy_is_the_exact_ratio_not_the_mean_over_batches():
    targets = np.zeros((10, 10), dtype=np.int64)
    predictions = targets.copy()
    predictions[8:] = 1
    batches = [segment_accuracy(predictions[i : i + 8], targets[i : i + 8]) for i in (0, 8)]
    assert np.mean(batches) == 50.0  # what peers with a batch of 8 would report
    assert segment_accuracy(predictions, targets) == 80.0


@given(LABELS)
def test_the_truth_scores_100(labels):
    assert segment_accuracy(labels, labels) == 100.0


@given(LABELS, st.randoms(use_true_random=False))
def test_accuracy_ignores_the_order_of_videos_and_any_split_into_batches(labels, random):
    predictions = np.array([random.randrange(4) for _ in range(labels.size)]).reshape(labels.shape)
    whole = segment_accuracy(predictions, labels)
    assert 0.0 <= whole <= 100.0
    order = list(range(len(labels)))
    random.shuffle(order)
    assert segment_accuracy(predictions[order], labels[order]) == whole
    cut = random.randrange(len(labels) + 1)
    parts = [(predictions[:cut], labels[:cut]), (predictions[cut:], labels[cut:])]
    weighted = sum(segment_accuracy(p, t) * t.size for p, t in parts if t.size) / labels.size
    assert weighted == pytest.approx(whole)


@given(LABELS)
def test_always_background_scores_the_share_of_background(labels):
    floor = segment_accuracy(np.full_like(labels, 3), labels)
    assert floor == pytest.approx(100 * np.mean([label == 3 for row in labels for label in row]))


@given(LABELS, st.randoms(use_true_random=False))
def test_category_accuracies_weighted_by_their_segments_give_the_whole(labels, random):
    predictions = np.array([random.randrange(4) for _ in range(labels.size)]).reshape(labels.shape)
    scores = category_accuracy(predictions, labels, vocabulary=CATEGORIES)
    counts = {name: int((labels == i).sum()) for i, name in enumerate([*CATEGORIES, "background"])}
    assert set(scores) == {name for name, count in counts.items() if count}
    weighted = sum(scores[name] * counts[name] for name in scores) / labels.size
    assert weighted == pytest.approx(segment_accuracy(predictions, labels))


@given(st.lists(st.tuples(st.sampled_from(CATEGORIES), st.integers(0, 10), st.integers(0, 10)), min_size=1))
def test_every_second_of_every_row_follows_the_definition(rows):
    rows = [(name, min(i, j), max(i, j)) for name, i, j in rows]
    labels = segment_labels(*zip(*rows, strict=True), vocabulary=CATEGORIES, segments=10)
    for (name, start, end), row in zip(rows, labels.tolist(), strict=True):
        assert row == [CATEGORIES.index(name) if start <= t < end else 3 for t in range(10)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_diverged_logits_give_an_error_not_a_number(value):
    with pytest.raises(RunError, match="class logits hold values that are not finite"):
        predict_event_and_class([[0.0]], [[value, 0.0]])


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match=r"segment logits of shape \(2, 2\) must have 3 dimensions"):
        predict_segments(np.zeros((2, 2)))
    with pytest.raises(UsageError, match="event logits of 1 videos, but class logits of 2"):
        predict_event_and_class(np.zeros((1, 10)), np.zeros((2, 28)))
    with pytest.raises(UsageError, match="must both be"):
        segment_accuracy(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(UsageError, match="no segments at all"):
        segment_accuracy(np.zeros((0, 10)), np.zeros((0, 10)))
    with pytest.raises(UsageError, match="called 'background'"):
        category_accuracy([[0]], [[0]], vocabulary=["background"])
