"""The ten F-scores against a slow reading of the specification, its worked cases, and the published annotations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mettle_cache.errors import DatasetError, RunError, UsageError
from mettle_cache.metrics.avvp import (
    Counts,
    Parsing,
    category_scores,
    event_counts,
    paint_events,
    parse,
    parsing_scores,
    segment_counts,
    video_scores,
)

NAMES = [f"{level}_{name}" for level in ("segment", "event") for name in ("a", "v", "av", "type_av", "event_av")]


def slow_f(triples):
    """Spec 6: the mean over counting categories of 2TP / (2TP + FP + FN), 1.0 if none counts."""
    scores = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in triples if tp + fp + fn > 0]
    return sum(scores) / len(scores) if scores else 1.0


def slow_segments(ours, truth):
    return [
        (
            sum(p and t for p, t in zip(row, wanted, strict=True)),
            sum(p and not t for p, t in zip(row, wanted, strict=True)),
            sum(t and not p for p, t in zip(row, wanted, strict=True)),
        )
        for row, wanted in zip(ours, truth, strict=True)
    ]


def slow_runs(row):
    runs, inside = [], set()
    for t, active in enumerate([*row, False]):
        if active:
            inside.add(t)
        elif inside:
            runs.append(inside)
            inside = set()
    return runs


def slow_events(ours, truth):
    triples = []
    for row, wanted in zip(ours, truth, strict=True):
        predicted, annotated = slow_runs(row), slow_runs(wanted)

        def hits(one, many):
            return any(len(one & other) >= 0.5 * len(one | other) for other in many)

        tp = sum(hits(event, annotated) for event in predicted)
        fn = sum(not hits(event, predicted) for event in annotated)
        triples.append((tp, len(predicted) - tp, fn))
    return triples


def slow_scores(predicted, annotated):
    columns = {name: [] for name in NAMES}
    for a, v, true_a, true_v in zip(predicted.audio, predicted.visual, annotated.audio, annotated.visual, strict=True):
        for level, count in (("segment", slow_segments), ("event", slow_events)):
            audio, visual, both = count(a, true_a), count(v, true_v), count(a & v, true_a & true_v)
            summed = [tuple(map(sum, zip(*pair, strict=True))) for pair in zip(audio, visual, strict=True)]
            for name, triples in (("a", audio), ("v", visual), ("av", both), ("event_av", summed)):
                columns[f"{level}_{name}"].append(slow_f(triples))
    means = {name: 100 * np.mean(values) for name, values in columns.items() if values}
    for level in ("segment", "event"):
        means[f"{level}_type_av"] = sum(means[f"{level}_{name}"] for name in ("a", "v", "av")) / 3
    return {**means, "average": sum(means.values()) / 10}


def parsings():
    """Predictions and annotations of up to 4 videos and 4 categories."""
    shape = st.tuples(st.just(4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 5, 10]))
    return shape.flatmap(lambda size: arrays(np.bool_, size)).map(
        lambda four: (Parsing(four[0], four[1]), Parsing(four[2], four[3]))
    )


@given(parsings())
@settings(max_examples=300)
def test_scores_equal_a_slow_reading_of_the_specification(pair):
    scores = parsing_scores(*pair)
    assert list(scores) == [*NAMES, "average"]
    expected = slow_scores(*pair)
    for name, value in scores.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


@given(parsings())
@settings(max_examples=50)
def test_scores_are_percentages_and_the_truth_reaches_the_top(pair):
    predicted, annotated = pair
    assert all(0 <= score <= 100 for score in parsing_scores(predicted, annotated).values())
    assert set(parsing_scores(annotated, annotated).values()) == {100.0}


@given(parsings(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_videos_and_categories_does_not_count(pair, random):
    videos, categories, _ = pair[0].audio.shape
    rows, columns = random.sample(range(videos), videos), random.sample(range(categories), categories)
    turned = [Parsing(p.audio[rows][:, columns], p.visual[rows][:, columns]) for p in pair]
    before, after = parsing_scores(*pair), parsing_scores(*turned)
    assert after == pytest.approx(before, abs=1e-9)


def row(*spans, segments=10):
    """``[1, 1, T]`` with these half-open spans active."""
    active = np.zeros((1, 1, segments), bool)
    for start, end in spans:
        active[0, 0, start:end] = True
    return active


@pytest.mark.parametrize(
    ("predicted", "annotated", "tp", "fp", "fn"),
    [
        ([(0, 5), (6, 10)], [(0, 10)], 1, 1, 0),  # runs of 5 and 4 against one of 10: 0.667
        ([(0, 5)], [(0, 2), (3, 5)], 0, 1, 2),  # 2 of 5 is below a half
        ([(0, 5), (5, 10)], [(0, 10)], 1, 0, 0),  # no gap, so one event
        ([(0, 4), (5, 9)], [(0, 8)], 1, 1, 0),  # 4 of 8 is a half, and that is enough; 3 of 9 is not
        ([(0, 1), (2, 3)], [(0, 3)], 0, 2, 1),
        ([(0, 2), (3, 5)], [(0, 2), (3, 5)], 2, 0, 0),
        ([(9, 10)], [(9, 10)], 1, 0, 0),
        ([], [(0, 1)], 0, 0, 1),
        ([(0, 1)], [], 0, 1, 0),
        ([], [], 0, 0, 0),
    ],
)
def test_event_matching_worked_cases(predicted, annotated, tp, fp, fn):
    counts = event_counts(row(*predicted), row(*annotated))
    assert (counts.tp.item(), counts.fp.item(), counts.fn.item()) == (tp, fp, fn)


@given(arrays(np.bool_, (2, 6, 5, 10)))
def test_matching_is_one_to_one_though_nothing_is_paired_off(pair):
    """Two runs that each share half of the union with the same event would leave no room for the gap between them."""
    counts = event_counts(*pair)
    events = [[len(slow_runs(wanted)) for wanted in video] for video in pair[1]]
    assert (counts.tp + counts.fn).tolist() == events


def test_the_worked_case_of_the_specification_scores_two_thirds():
    assert video_scores(event_counts(row((0, 5), (6, 10)), row((0, 10))))[0] == pytest.approx(2 / 3)


def test_categories_average_within_a_video_and_videos_after_that():
    ours, truth = np.zeros((2, 3, 10), bool), np.zeros((2, 3, 10), bool)
    ours[0, 0], truth[0, 0] = True, True  # right everywhere
    ours[0, 1, :5], truth[0, 1, 5:] = True, True  # wrong everywhere
    truth[1, 2, 0] = ours[1, 2, 0] = True
    scores = video_scores(segment_counts(ours, truth))
    assert scores.tolist() == [0.5, 1.0]  # two categories count, the third neither occurs nor is predicted
    parsing, empty = Parsing(ours, ours), Parsing(truth, truth)
    assert parsing_scores(parsing, empty)["segment_a"] == 75.0


def test_counts_of_heard_and_seen_are_added_before_the_ratio():
    heard, seen = Counts(*np.array([[[3]], [[0]], [[0]]])), Counts(*np.array([[[0]], [[1]], [[2]]]))
    assert video_scores(heard + seen)[0] == pytest.approx(2 * 3 / (6 + 1 + 2))


def test_nothing_predicted_scores_the_videos_without_annotation():
    truth = np.zeros((4, 2, 10), bool)
    truth[0, 0, 2:5] = True
    nothing = np.zeros_like(truth)
    scores = parsing_scores(Parsing(nothing, nothing), Parsing(truth, nothing))
    assert (scores["segment_a"], scores["segment_v"], scores["segment_av"]) == (75.0, 100.0, 100.0)
    assert scores["segment_event_av"] == scores["event_event_av"] == 75.0


def test_probabilities_become_events_from_a_half_on_and_in_categories_of_the_video_only():
    video = np.array([[0.5, 0.49, 0.9]])
    audio = np.array([[[0.5, 0.9, 0.2], [0.49, 0.9, 1.9]]])  # T = 2; mgn's frame values can exceed 1
    parsing = parse(video, audio, np.zeros_like(audio))
    assert parsing.audio.tolist() == [[[True, False], [False, False], [False, True]]]
    assert not parsing.visual.any()
    assert parse(video, audio, audio, mask=False).audio[0, 1].tolist() == [True, True]


def test_events_are_painted_and_overlap_freely():
    active = paint_events(
        [["Dog", "Cat", "Dog"], []], [[0, 2, 2], []], [[3, 2, 4], []], vocabulary=["Cat", "Dog"], segments=5
    )
    assert active.tolist() == [[[False] * 5, [True] * 4 + [False]], [[False] * 5] * 2]


@pytest.mark.parametrize(
    ("label", "start", "end", "message"),
    [
        ("Owl", 0, 1, "sample 0: label 'Owl' is not one of the 1 categories"),
        ("Dog", 3, 11, "sample 0: the event from 3 to 11 s is not within 0 to 10 s"),
        ("Dog", -1, 2, "sample 0: the event from -1 to 2 s"),
        ("Dog", 3, 2, "sample 0: the event from 3 to 2 s"),
    ],
)
def test_events_that_cannot_be_are_refused(label, start, end, message):
    with pytest.raises(DatasetError, match=message):
        paint_events([[label]], [[start]], [[end]], vocabulary=["Dog"], segments=10)


def test_events_without_a_time_are_refused():
    with pytest.raises(DatasetError, match="sample 0: its events have 2 labels, 1 starts and 2 ends"):
        paint_events([["Dog", "Dog"]], [[0]], [[1, 2]], vocabulary=["Dog"], segments=10)


def test_scores_by_category_pool_all_segments():
    ours, truth = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    ours[0, 0, :2] = truth[0, 0, :1] = truth[1, 0, :2] = True
    ours[1, 1, 0] = True
    scores = category_scores(Parsing(ours, ours), Parsing(truth, truth & False), vocabulary=["Cat", "Dog", "Car"])
    assert scores["a"] == {"Cat": pytest.approx(100 * 2 / (2 + 1 + 2)), "Dog": 0.0}
    assert scores["v"] == {"Cat": 0.0, "Dog": 0.0}
    assert scores["av"] == {"Cat": 0.0, "Dog": 0.0}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (2, 4, 3), (2, 5, 3)), "do not fit together"),
        (((2, 4), (2, 4, 3), (2, 4, 3)), "do not fit together"),
        (((2, 3, 1), (2, 4, 3), (2, 4, 3)), r"video probabilities of shape \(2, 3, 1\) must have 2 dimensions"),
        (((2, 3), (2, 4), (2, 4, 3)), "audio probabilities of shape .* must have 3 dimensions"),
    ],
)
def test_probabilities_of_other_shapes_are_refused(shapes, message):
    with pytest.raises(UsageError, match=message):
        parse(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("place", range(3))
def test_probabilities_that_are_not_finite_give_no_number(place):
    given = [np.zeros((1, 2)), np.zeros((1, 3, 2)), np.zeros((1, 3, 2))]
    given[place].flat[0] = np.nan
    with pytest.raises(RunError, match="not finite: the model has diverged"):
        parse(*given)


def test_scores_of_other_shapes_or_of_nothing_are_refused():
    one, two = Parsing(*np.zeros((2, 1, 2, 3), bool)), Parsing(*np.zeros((2, 1, 2, 4), bool))
    with pytest.raises(UsageError, match=r"predictions \(1, 2, 3\) and annotations \(1, 2, 4\) must both be"):
        parsing_scores(one, two)
    none = Parsing(*np.zeros((2, 0, 2, 3), bool))
    with pytest.raises(UsageError, match="scores of no videos at all are undefined"):
        parsing_scores(none, none)
