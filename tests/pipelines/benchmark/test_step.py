"""A tiny run of the step's bench: what its numbers mean, not how large they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mettle_cache.errors import RunError
from pipelines.benchmark.options import BenchOptions
from pipelines.benchmark.registry import run_bench
from pipelines.benchmark.step import HEAD_COUNTS, ONLINE, OURS, STOCK, Limits, fitting_batch, take_turns
from pipelines.benchmark.step_child import StepRequest, measure_steps
from pipelines.benchmark.table import parse_table
from tests.pipelines.listener import Listener


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    found = run_bench("step", BenchOptions(repeats=1, tiny=True, folder=folder, device="cpu"))
    assert list(folder.iterdir()) == []
    return found


def test_every_way_to_train_has_seconds_a_rate_and_memory(table):
    for name in (OURS, STOCK, ONLINE):
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
    assert table.row(STOCK).denominator == table.row(ONLINE).denominator == OURS


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


NOWHERE = StepRequest(store="nowhere", attention="stock", batch=4, steps=1, device="cpu", tiny=True)


def test_a_store_that_is_missing_is_an_error_with_its_name():
    with pytest.raises(RunError, match=r"a process of the bench failed with code 2: .*nowhere"):
        measure_steps(NOWHERE)


def test_a_rival_that_dies_is_left_out_and_said_and_ours_is_not():
    listener = Listener()
    found, limits = take_turns({STOCK: NOWHERE}, lambda: Limits(1.0, 1.0), 2, listener)
    assert found == {}
    assert len(limits) == 2
    assert any(note.startswith(f"{STOCK}: a process of the bench failed") for note in listener.notes)
    with pytest.raises(RunError, match="nowhere"):
        take_turns({OURS: replace(NOWHERE, attention="absorbed")}, lambda: Limits(1.0, 1.0), 1, Listener())


def test_nothing_is_left_in_the_repository():
    assert not list(Path().glob(".mettle-bench-*"))
