from pathlib import Path

import pytest

from mettle_cache.cli.evaluate import evaluation_lines, report_lines
from mettle_cache.pipelines.report.run_reports import EvaluateReport, EvaluationGroup

ROW = {"setting": "llp-swin", "visual": "swinv2_l", "audio": "htsat", "total_m": 283.5, "source": "Mettle, Table 2"}


@pytest.fixture
def report_of():
    def make(scores, published, **changes):
        fields = {"run": Path("runs/a"), "differs": ["codec"], "notes": [], "paper": {**ROW, "scores": published}}
        return EvaluateReport(
            **fields | changes,
            split="test",
            samples=12,
            dropped=0,
            metric=next(iter(scores)),
            scores=scores,
            floors={"nothing predicted": 10.0},
            details={},
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
        "comparable no",
        "differs    codec",
        "written    runs/a/predictions-test.parquet",
    ]


def test_pictures_are_named_each(report_of):
    folder = Path("runs/a/artefacts-test")
    lines = report_lines(report_of({"miou": 50.0}, {"miou": 80.0}, pictures=[folder / "masks", folder / "overlay.png"]))
    assert lines[-2:] == [f"pictures   {folder}/masks", f"pictures   {folder}/overlay.png"]


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


def test_comparable_is_what_differs_in_nothing(report_of):
    report = report_of({"accuracy": 83.0}, {"accuracy": 83.3}, differs=[], notes=["stored as int8"])
    assert report.to_json()["comparable"] is True
    assert report_lines(report)[3:5] == ["comparable yes", "note       stored as int8"]
    assert report_of({"accuracy": 83.0}, {"accuracy": 83.3}).to_json()["comparable"] is False


def test_a_row_without_a_published_size_names_none(report_of):
    (line,) = [
        line
        for line in report_lines(report_of({"accuracy": 83.0}, {}, paper={**ROW, "total_m": None, "scores": {}}))
        if line.startswith("paper")
    ]
    assert line == "paper      llp-swin, swinv2_l + htsat, Mettle, Table 2"


def test_nothing_published_prints_no_row(report_of):
    lines = report_lines(report_of({"accuracy": 83.0}, {}, paper=None, differs=["data: nothing is published"]))
    assert [line for line in lines if line.startswith("paper")] == []
    assert "differs    data: nothing is published" in lines


def test_a_group_says_which_difference_is_whose(report_of):
    one = report_of({"accuracy": 1.0}, {"accuracy": 2.0}, variant="k=1", differs=["codec", "recipe: k = 1"])
    two = report_of({"accuracy": 1.0}, {"accuracy": 2.0}, variant="k=2", run=Path("runs/b"))
    lines = evaluation_lines(EvaluationGroup(split="test", reports=[one, two], failures=[], notes=["counts once"]))
    assert [line for line in lines if line.startswith("differs")] == [
        "differs    codec",
        "differs    recipe: k = 1 (k=1)",
    ]
    assert "note       counts once" in lines
