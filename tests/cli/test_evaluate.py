from pathlib import Path

import pytest

from mettle_cache.cli.evaluate import report_lines
from mettle_cache.pipelines.report.run_reports import EvaluateReport

ROW = {"setting": "llp-swin", "visual": "swinv2_l", "audio": "htsat", "total_m": 283.5, "source": "Mettle, Table 2"}


@pytest.fixture
def report_of():
    def make(scores, published):
        return EvaluateReport(
            run=Path("runs/a"),
            split="test",
            samples=12,
            dropped=0,
            metric=next(iter(scores)),
            scores=scores,
            floors={"nothing predicted": 10.0},
            details={},
            paper={**ROW, "scores": published},
            differs=["codec"],
            comparable=True,
            selected_on="val",
            best_epoch=3,
            times_evaluated=1,
            predictions=Path("runs/a/predictions-test.parquet"),
            store=Path("cache/s.zarr"),
            store_digest="0",
            checkpoint_digest="1",
            seed=0,
        )

    return make


def test_one_score_stands_beside_the_paper_s_in_one_line(report_of):
    lines = report_lines(report_of({"accuracy": 81.234}, {"accuracy": 83.3}))
    assert lines == [
        "accuracy   81.23 on test (12 samples, epoch 3)",
        "floor      nothing predicted 10.00",
        "paper      accuracy 83.3, llp-swin, swinv2_l + htsat, 283.5 M parameters, Mettle, Table 2",
        "differs    codec",
        "written    runs/a/predictions-test.parquet",
    ]


def test_several_scores_are_a_table_beside_the_paper_s(report_of):
    lines = report_lines(report_of({"segment_type_av": 57.0, "own": 1.0}, {"segment_type_av": 57.0, "other": 3.0}))
    assert lines[2:8] == [
        "",
        "score            ours   paper",
        "segment_type_av  57.00  57.0",
        "own              1.00   -",
        "",
        "paper      llp-swin, swinv2_l + htsat, 283.5 M parameters, Mettle, Table 2",
    ]
