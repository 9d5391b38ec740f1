"""How several heads are told of: a line for each, mean and spread, what failed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.cli.group import describe_spread, group_lines
from mettle_cache.pipelines.report.run_reports import GroupReport, Spread, TrainReport

HEAD = TrainReport(
    out=Path("runs/g/seed-0"),
    recipe="ave-small",
    seed=0,
    epochs=10,
    selected_on="val",
    metric="accuracy",
    best_epoch=7,
    best_score=54.126,
    parameters=1000,
    samples={"train": 30, "val": 9},
    dropped={},
    clips_per_second=12.3,
    peak_memory_bytes=1,
    peak_memory_of="process",
)
OTHER = replace(HEAD, out=Path("runs/g/seed-1"), seed=1, best_epoch=3, best_score=58.1)
FAILED = replace(HEAD, out=Path("runs/g/seed-2"), seed=2, best_score=None, failure="the loss is not finite")


def report(*heads):
    return GroupReport(
        folder=Path("runs/g"),
        heads=list(heads),
        bytes_read=53_900_000,
        clips_per_second=41.24,
        peak_memory_bytes=223_000_000,
        peak_memory_of="process (RSS)",
        notes=["weights are random"],
    )


@pytest.mark.parametrize(
    ("scores", "failed", "variant", "text"),
    [
        ([54.1, 58.1, 56.2], 0, "", "{mean:.2f} ± {std:.2f} (3 heads)"),
        ([54.1, 58.1], 1, "lcd.k_visual=2", "{mean:.2f} ± {std:.2f} (2 heads, 1 failed), lcd.k_visual=2"),
        ([54.1], 0, "", "54.10 (1 head)"),
        ([], 2, "", "no score (0 heads, 2 failed)"),
    ],
)
def test_a_spread_is_mean_and_sample_deviation(scores, failed, variant, text):
    numbers = {"mean": np.mean(scores), "std": np.std(scores, ddof=1)} if len(scores) > 1 else {}
    spread = Spread(variant=variant, metric="accuracy", scores=scores, failed=failed)
    assert describe_spread(spread) == text.format(**numbers)


def test_every_head_has_a_line_and_what_failed_its_reason():
    lines = group_lines(report(HEAD, OTHER, FAILED))
    assert [line.split() for line in lines[:4]] == [
        ["run", "best", "epoch", "val", "accuracy", "status"],
        ["seed-0", "7", "of", "10", "54.13", "ok"],
        ["seed-1", "3", "of", "10", "58.1", "ok"],
        ["seed-2", "7", "of", "10", "-", "failed"],
    ]
    text = "\n".join(lines)
    for part in (
        "accuracy   56.11 ± 2.81 (2 heads, 1 failed)",
        "samples    train 30, val 9",
        "read       53.9 MB of tokens, once for all 3 heads",
        "speed      41.2 clips/s through all heads",
        "memory     223 MB at most, process (RSS)",
        "failed     runs/g/seed-2: the loss is not finite",
        "note       weights are random",
        "next       mettle evaluate runs/g",
    ):
        assert part in text
    assert "failed" not in "\n".join(group_lines(report(HEAD, OTHER)))
