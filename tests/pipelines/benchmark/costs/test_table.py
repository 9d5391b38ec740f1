"""The table from results whose outcome can be counted by hand."""

from pathlib import Path

import pytest
import torch

from mettle_cache.pipelines.benchmark.costs.child import CostResult
from mettle_cache.pipelines.benchmark.costs.setting import find_setting
from mettle_cache.pipelines.benchmark.costs.table import CostMeasurements, ParameterCount, cost_table
from mettle_cache.pipelines.benchmark.costs.variants import ONLINE_NAME, cost_variants
from mettle_cache.pipelines.benchmark.options import BenchOptions

METHODS = ["lcd", "lavish"]


def findings(**changes):
    setting, device = find_setting("ave-swin-htsat"), torch.device("cpu")
    variants = cost_variants(setting, METHODS, Path("stores"), device, BenchOptions(batch=2))
    cached = CostResult(seconds=0.2, peak=2 * 10**9, saved=10**7, memory_of="RSS", head=0.03, folded=0.01)
    online = CostResult(seconds=4.0, backbone=3.5, peak=4 * 10**9, saved=10**9, memory_of="RSS", whole=2.0, head=0.1)
    adapters = CostResult(seconds=12.0, backbone=6.0, peak=20 * 10**9, saved=18 * 10**9, memory_of="RSS", whole=2.5)
    results = {variant.name: [cached] * 3 for variant in variants}
    results |= {ONLINE_NAME: [online] * 3, "lavish": [adapters] * 3}
    measured = {
        "setting": setting,
        "batch": 2,
        "device": device,
        "variants": variants,
        "results": results,
        "parameters": {
            "lcd": ParameterCount(77_902_000, 338_000_000, 0.23),
            "lavish": ParameterCount(12_000_000, 272_000_000, 0.044),
        },
        "unfit": {},
    }
    return CostMeasurements(**{**measured, **changes})


def test_memory_and_time_are_those_of_a_sample_and_ratios_say_what_they_are_to():
    table = cost_table(findings(), BenchOptions(repeats=3))
    memory = table.row("memory a sample: lavish")
    assert (memory.value, memory.ratio) == (pytest.approx(10.0), pytest.approx(5.0))
    assert memory.denominator == f"memory a sample: {ONLINE_NAME}"
    step = table.row(f"a step, a sample: {ONLINE_NAME}")
    assert (step.value, step.ratio) == (pytest.approx(2000), pytest.approx(20))
    assert step.denominator == "a step, a sample: lcd from int8"
    assert step.note == "3500 ms of a whole step are the backbones' forward passes"
    assert table.row("inference, folded head alone: lcd from klt1.5").value == pytest.approx(10)
    assert table.row("inference with backbones: lavish").ratio == pytest.approx(1.25)


def test_parameters_stand_beside_the_papers():
    table = cost_table(findings(), BenchOptions(repeats=3))
    assert table.row("all parameters: lcd").note == "the paper's Mettle: 338.0"
    assert table.row("trainable share: lcd").note == "the paper's Mettle: 23.0"
    assert table.row("trainable share: lavish").note == "the paper's LAVisH: 30.6"
    assert table.row("trainable parameters: lavish").value == pytest.approx(12)


def test_goals_are_the_papers_own_ratios():
    goals = cost_table(findings(), BenchOptions(repeats=3)).goals
    assert [(goal.wanted, goal.found, goal.met) for goal in goals] == [(7.93, 10.0, True), (2.64, 60.0, True)]
    without = findings(results={name: r for name, r in findings().results.items() if name != "lavish"})
    assert cost_table(without, BenchOptions(repeats=3)).goals == ()
    assert cost_table(findings(), BenchOptions(repeats=3, latency=True)).goals == ()


def test_what_was_not_tried_has_a_row_with_the_reason():
    table = cost_table(findings(unfit={"lavish": "its graph needs about 28 GB"}), BenchOptions(repeats=3))
    row = table.row("lavish")
    assert (row.value, row.note) == (None, "its graph needs about 28 GB")
