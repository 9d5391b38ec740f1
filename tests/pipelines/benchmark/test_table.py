"""Rows, goals, and results that come back from files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured, parse_table, unmeasured
from mettle_cache.pipelines.timing import Repeats

LIMIT = measured("limit", Repeats((4.0, 5.0, 3.0)), "GB/s")
TABLE = BenchTable(
    bench="read",
    title="t",
    denominators=(LIMIT,),
    rows=(measured("ours", Repeats((3.0, 2.0)), "GB/s", of=LIMIT), unmeasured("theirs", "GB/s", "not installed")),
    goals=(Goal(what="ours", wanted=0.5, found=0.625), Goal(what="time", wanted=1.0, found=2.0, least=False)),
    repeats=5,
    machine={"processor": "one"},
    command="mettle bench read",
)


def test_a_ratio_is_the_value_over_its_denominators():
    row = TABLE.row("ours")
    assert row.value == 2.5
    assert row.ratio == 2.5 / 4.0
    assert row.denominator == "limit"
    assert (row.low, row.high) == (2.0, 3.0)
    assert TABLE.row("limit").ratio is None
    assert TABLE.row("theirs").value is None


def test_goals_are_met_from_the_side_that_they_say():
    assert [goal.met for goal in TABLE.goals] == [True, False]
    assert Goal(what="a", wanted=1, found=1).met
    assert Goal(what="a", wanted=1, found=1, least=False).met


def test_a_result_comes_back_from_its_json():
    data = json.dumps(TABLE.to_json()).encode()
    assert json.loads(data)["goals"][0]["met"] is True
    assert parse_table(data, "x.json") == TABLE


@pytest.mark.parametrize(
    "change",
    [
        {"repeats": 0},
        {"rows": [{"variant": "a"}]},
        {"surplus": 1},
        {"goals": [3]},
        {"machine": [1]},
        {"denominators": None},
        {"title": "x" * 5000},
    ],
)
def test_what_is_no_result_is_refused(change):
    data = json.dumps({**TABLE.to_json(), **change}).encode()
    with pytest.raises(UsageError, match=r"results/x\.json is not the result of a bench"):
        parse_table(data, "results/x.json")


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr)))
def test_anything_else_is_refused_too(data):
    with pytest.raises(UsageError, match="not the result of a bench"):
        parse_table(data if isinstance(data, bytes) else data.encode(), "x.json")


def test_not_a_number_is_refused():
    data = json.dumps(TABLE.to_json()).replace("0.625", "NaN").encode()
    with pytest.raises(UsageError, match="not the result of a bench"):
        parse_table(data, "x.json")


def test_a_row_without_a_denominator_has_no_ratio():
    empty = BenchRow(variant="none", value=0.0, unit="GB/s")
    assert measured("ours", Repeats((1.0,)), "GB/s", of=empty).ratio is None
