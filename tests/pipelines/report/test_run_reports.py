import json
import statistics
from pathlib import Path

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport, spread_of


def head(score, *, variant="", failure=None):
    return TrainReport(
        out=Path("runs/a"),
        recipe="r",
        seed=0,
        epochs=3,
        selected_on="val",
        metric="accuracy",
        best_epoch=2,
        best_score=score,
        parameters=10,
        samples={"train": 4},
        dropped={},
        clips_per_second=1.0,
        peak_memory_bytes=1,
        peak_memory_of="process (RSS)",
        variant=variant,
        failure=failure,
    )


def group(*heads):
    return GroupReport(
        folder=Path("runs"),
        heads=list(heads),
        bytes_read=5,
        clips_per_second=2.0,
        peak_memory_bytes=1,
        peak_memory_of="process (RSS)",
        notes=[],
        errors=[RunError(item.failure) for item in heads if item.failure],
    )


def test_mean_and_sample_deviation_by_variant_in_their_order():
    scores = {"b": [50.0, 60.0, 70.0], "a": [1.0]}
    spreads = spread_of([("b", 50.0), ("a", 1.0), ("b", 60.0), ("b", 70.0)], metric="accuracy")
    assert [(spread.variant, spread.scores) for spread in spreads] == list(scores.items())
    assert spreads[0].mean == pytest.approx(60)
    assert spreads[0].std == pytest.approx(statistics.stdev(scores["b"]))
    assert (spreads[1].mean, spreads[1].std) == (1.0, None)


def test_a_failed_head_is_counted_and_not_averaged():
    (spread,) = group(head(50.0), head(99.0, failure="the loss is not finite"), head(None, failure="too")).summary
    assert (spread.scores, spread.failed, spread.mean) == ([50.0], 2, 50.0)
    (nothing,) = spread_of([("", None)], metric="accuracy")
    assert (nothing.mean, nothing.std, nothing.failed) == (None, None, 1)


def test_without_scores_there_is_no_summary():
    assert group(head(None), head(None)).summary == []


def test_the_document_holds_every_head_and_the_spread():
    document = json.loads(json.dumps(group(head(50.0, variant="k=1"), head(60.0, variant="k=1")).to_json()))
    assert [item["best_score"] for item in document["heads"]] == [50.0, 60.0]
    assert document["summary"] == [
        {
            "variant": "k=1",
            "metric": "accuracy",
            "scores": [50.0, 60.0],
            "failed": 0,
            "mean": 55.0,
            "std": pytest.approx(statistics.stdev([50, 60])),
        }
    ]
    assert (document["failed"], document["bytes_read"]) == (0, 5)
