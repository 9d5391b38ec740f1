"""A tiny run of the step's bench: what its numbers mean, not how large they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.products import Products
from mettle_cache.pipelines.benchmark.step import fitting_batch, take_turns
from mettle_cache.pipelines.benchmark.step_child import StepRequest, StepResult
from mettle_cache.pipelines.benchmark.step_table import (
    FLOAT_PRODUCTS,
    HEAD_COUNTS,
    KLT,
    KLT_FLOAT_PRODUCTS,
    ONLINE,
    OURS,
    STOCK,
    Limits,
    StepMeasurements,
    step_table,
)
from mettle_cache.pipelines.benchmark.table import parse_table
from tests.pipelines.listener import Listener


@pytest.fixture(scope="module")
def table(tiny_bench):
    return tiny_bench("step")


def test_every_way_to_train_has_seconds_a_rate_and_memory(table):
    assert (FLOAT_PRODUCTS in {row.variant for row in table.rows}) == has_byte_tiles()
    for name in (OURS, KLT, *([FLOAT_PRODUCTS, KLT_FLOAT_PRODUCTS] if has_byte_tiles() else []), STOCK, ONLINE):
        seconds, rate, memory = (table.row(f"{name}{what}") for what in ("", ": rate", ": memory"))
        assert (seconds.unit, rate.unit, memory.unit) == ("s/clip", "clips/s", "GB")
        assert rate.value == pytest.approx(1 / seconds.value)
        assert memory.value > 0
        assert memory.note == "RSS of a process of its own, batch 4"


def test_ratios_are_to_what_they_name(table):
    for row in table.rows:
        if row.ratio is not None:
            assert row.ratio == pytest.approx(row.value / table.row(row.denominator).value)
    assert table.row(OURS).denominator == "floor"
    assert {table.row(name).denominator for name in (KLT, STOCK, ONLINE)} == {OURS}


def test_the_floor_is_made_of_its_parts(table):
    floor = table.row("floor")
    update = table.row("optimiser step").value / 4
    assert floor.value > update
    assert f"{1000 * update:.1f} ms of the optimiser" in floor.note


def test_backbones_are_a_part_of_the_online_step(table):
    row = table.row(ONLINE)
    backbones = float(row.note.split("; ")[1].split()[0])
    assert 0 <= backbones <= row.value + 0.01


def test_heads_of_one_pass_are_counted_each(table):
    names = [f"{count} head{'' if count == 1 else 's'} from one pass, each" for count in HEAD_COUNTS]
    assert all(table.row(name).value > 0 for name in names)


def test_toy_shapes_are_held_to_no_goal(table):
    assert table.goals == ()
    assert table.tiny


def test_the_document_can_be_read_back(table):
    assert parse_table(json.dumps(table.to_json()).encode(), "step.json") == table


@pytest.mark.parametrize(
    ("one", "two", "room", "expected"),
    [
        (10, 12, 100, 16),  # 1 + 90 / 2 would be more than the recipe's batch
        (10, 20, 55, 5),
        (10, 20, 10, 1),
        (10, 20, 5, 1),  # not even one fits: one is tried all the same
        (10, 10, 100, 16),  # the second clip took nothing
    ],
)
def test_the_largest_batch_that_fits(one, two, room, expected):
    assert fitting_batch(one, two, most=16, room=room) == expected


REQUEST = StepRequest(store="here", attention="stock", batch=4, steps=1, device="cpu", tiny=True)


def test_a_variant_that_dies_is_left_out_and_said_and_ours_is_not(monkeypatch):
    """How a process dies is for test_child_process."""

    def die(request):
        raise RunError("a process of the bench was ended by SIGKILL")

    monkeypatch.setattr("mettle_cache.pipelines.benchmark.step.measure_steps", die)
    listener = Listener()
    results, limits = take_turns({STOCK: REQUEST}, lambda: Limits(1.0, 1.0), 2, listener)
    assert results == {}
    assert len(limits) == 2
    assert any(note.startswith(f"{STOCK}: a process of the bench was ended") for note in listener.notes)
    with pytest.raises(RunError, match="was ended by SIGKILL"):
        take_turns({OURS: replace(REQUEST, attention="absorbed")}, lambda: Limits(1.0, 1.0), 1, Listener())


def result(seconds, **parts):
    defaults = {"backbone": 0.0, "optimiser": 0.16, "peak": 3 * 10**9, "saved": 10, "tokens": 1000, "memory_of": "RSS"}
    return StepResult(seconds=seconds, **{**defaults, **parts})


def findings(**changes):
    """Three full-size measurements whose outcome can be counted by hand."""
    ours = StepRequest(store="s", attention="absorbed", batch=16, steps=3, device="cpu", tiny=False)
    requests = {OURS: ours, KLT: ours, STOCK: replace(ours, batch=8), ONLINE: replace(ours, store=None, batch=1)}
    results = {
        OURS: [result(seconds, kernels="tiles") for seconds in (1.76, 1.6, 3.2)],
        KLT: [result(2.4, tokens=250, kernels="tiles") for _ in range(3)],
        STOCK: [result(16.16) for _ in range(3)],
        ONLINE: [result(20.16, backbone=15.0) for _ in range(3)],
    }
    measured = {
        "batch": 16,
        "device": torch.device("cpu"),
        "requests": requests,
        "results": results,
        "limits": [Limits(read=0.04, products=1e30)] * 3,
        "heads": {1: [1.6, 1.6, 1.6], 2: [2.88, 2.88, 2.88]},
        "products": {
            OURS: Products(tokens=2 * 10**9, projections=10**9),
            KLT: Products(tokens=10**9, projections=10**9, carried=5 * 10**8, carried_each=3 * 10**9),
        },
    }
    return StepMeasurements(**{**measured, **changes})


def test_goals_and_shares_are_worked_out_from_what_was_measured():
    table = step_table(findings(), BenchOptions(repeats=3))
    assert table.row("floor").value == pytest.approx(0.04 + 0.01)
    assert table.row(OURS).value == pytest.approx(0.11)
    assert table.row("floor, klt1.5").value == pytest.approx(0.01 + 0.01)
    assert table.row(KLT).value == pytest.approx(0.15)
    assert table.row(KLT).note == "batch 16; tiles"
    assert table.row("multiply-adds a clip: klt1.5, with codes").ratio == pytest.approx(0.5)
    # an update of 0.16 s is shared by 16 clips, whatever the batch that fits
    assert table.row(STOCK).value == pytest.approx(16 / 8 + 0.01)
    assert table.row(ONLINE).value == pytest.approx(20 + 0.01)
    assert "15.00 s are the backbones'" in table.row(ONLINE).note
    assert table.row("2 heads from one pass, each").ratio == pytest.approx(0.9)
    assert table.row("8 heads from one pass, each").value is None
    assert {goal.what: (round(goal.found, 4), goal.met) for goal in table.goals} == {
        "saved for backward, of the tokens' bytes": (0.01, True),
        f"{STOCK}, over ours": (round(2.01 / 0.11, 4), True),
        f"{ONLINE}, over ours": (round(20.01 / 0.11, 4), True),
        f"{KLT}, over int8 (tiles)": (round(0.15 / 0.11, 4), False),
        "ours, over the floor": (2.2, True),
    }


def test_a_variant_without_a_measurement_is_a_row_that_says_so():
    whole = findings()
    table = step_table(replace(whole, results={OURS: whole.results[OURS]}), BenchOptions(repeats=3))
    assert table.row(STOCK).value is None
    assert "died" in table.row(STOCK).note
    assert {goal.what for goal in table.goals} == {
        "saved for backward, of the tokens' bytes",
        "ours, over the floor",
    }


def test_a_gpu_is_held_to_what_was_asked_of_every_device():
    table = step_table(replace(findings(), device=torch.device("cuda")), BenchOptions(repeats=3))
    assert [goal.what for goal in table.goals] == ["saved for backward, of the tokens' bytes"]


def test_nothing_is_left_in_the_repository():
    assert not list(Path().glob(".mettle-bench-*"))
