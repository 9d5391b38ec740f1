import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.datasets.avqa_questions import KINDS
from mettle_cache.errors import RunError, UsageError
from mettle_cache.metrics.avqa import TYPES, answer_accuracies, blind_answers, most_common_answers, predict_answers

PUBLISHED = Path(os.environ.get("METTLE_ANNOTATIONS", Path(__file__).parents[3] / "shared" / "annotations")) / "avqa"
PAIRS = [(modality, kind) for modality, kinds in TYPES.items() for kind in kinds]


def test_the_data_set_and_the_metric_know_the_same_nine_types():
    assert TYPES == KINDS
    assert len(PAIRS) == 9


def test_averages_are_pooled_over_questions_not_over_types():
    types = [("Audio", "Counting")] * 3 + [("Audio", "Comparative")] + [("Visual", "Location")] * 4
    scores = answer_accuracies([0, 0, 0, 1, 2, 0, 0, 0], [0, 0, 0, 0, 2, 2, 2, 2], types)
    assert scores == {
        "accuracy": 100 * 4 / 8,
        "Audio": 100 * 3 / 4,
        "Visual": 100 * 1 / 4,
        "Audio Counting": 100.0,
        "Audio Comparative": 0.0,
        "Visual Location": 25.0,
    }


def test_an_answer_that_training_never_saw_is_wrong_whatever_is_predicted():
    assert answer_accuracies([-1, 3], [-1, 3], [("Audio", "Counting")] * 2)["accuracy"] == 50.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(PAIRS)), min_size=1), st.randoms())
def test_scores_follow_the_questions_whatever_their_order(rows, random):
    predictions, targets, types = zip(*rows, strict=True)
    scores = answer_accuracies(predictions, targets, types)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert answer_accuracies(*zip(*shuffled, strict=True)) == scores
    for name, score in scores.items():
        own = [p == t for p, t, (m, k) in rows if name in ("accuracy", m, f"{m} {k}")]
        assert score == pytest.approx(100 * np.mean(own))
    assert answer_accuracies(targets, targets, types).keys() == scores.keys()
    assert set(answer_accuracies(targets, targets, types).values()) == {100.0}


@pytest.mark.parametrize(
    ("predictions", "targets", "types", "message"),
    [
        ([], [], [], "no answers at all"),
        ([0], [0, 1], [PAIRS[0]] * 2, "do not fit"),
        ([[0]], [[0]], [PAIRS[0]], "do not fit"),
        ([0], [0], [("Audio", "Location")], "question type Audio Location is none of the nine"),
        ([0], [0], [("Smell", "Counting")], "question type Smell Counting is none of the nine"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, targets, types, message):
    with pytest.raises(UsageError, match=message):
        answer_accuracies(predictions, targets, types)


def test_the_first_of_the_highest_logits_wins():
    assert predict_answers([[0.0, 2.0, 2.0], [-1.0, -3.0, -2.0]]).tolist() == [1, 0]


def test_logits_that_are_not_finite_are_no_answer():
    with pytest.raises(RunError, match="answer logits hold values that are not finite"):
        predict_answers([[0.0, np.nan]])
    with pytest.raises(UsageError, match=r"of shape \(2,\) must be \[questions, answers\]"):
        predict_answers([0.0, 1.0])


def test_blind_answers_are_the_most_common_ones_of_each_template():
    known = most_common_answers(["a", "a", "b", "a", "b"], ["no", "yes", "two", "yes", "one"])
    assert known == {"a": "yes", "b": "two"}
    assert blind_answers(["b", "c"], known, otherwise="yes") == ["two", "yes"]


@pytest.mark.skipif(not (PUBLISHED / "avqa-test.json").exists(), reason="no published annotations here")
def test_the_blind_floors_of_the_published_questions():
    read = {split: json.loads((PUBLISHED / f"avqa-{split}.json").read_text()) for split in ("val", "test")}
    known = most_common_answers([row["question_content"] for row in read["val"]], [row["anser"] for row in read["val"]])
    answers = sorted({row["anser"] for split in read.values() for row in split})
    targets = [answers.index(row["anser"]) for row in read["test"]]
    types = [tuple(json.loads(row["type"])) for row in read["test"]]
    blind = blind_answers([row["question_content"] for row in read["test"]], known, otherwise="yes")
    scores = answer_accuracies([answers.index(answer) for answer in blind], targets, types)
    assert [round(scores[name], 2) for name in ("accuracy",)] == [51.05]
    assert [round(scores[name], 1) for name in TYPES] == [61.5, 41.9, 52.1]
    nine = np.mean([scores[f"{modality} {kind}"] for modality, kind in PAIRS])
    assert (round(nine, 2), round(np.mean([scores[name] for name in TYPES]), 2)) == (50.84, 51.83)
    yes = answer_accuracies([answers.index("yes")] * len(targets), targets, types)
    assert round(yes["accuracy"], 2) == 26.15
    assert set(answer_accuracies(targets, targets, types).values()) == {100.0}
