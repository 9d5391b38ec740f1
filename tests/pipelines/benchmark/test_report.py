"""BENCHMARKS.md says what the results say, and refuses results that cannot carry it."""

import json
from dataclasses import replace

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.registry import BENCHES, run_bench
from mettle_cache.pipelines.benchmark.report import load_tables, render_report, write_report
from mettle_cache.pipelines.benchmark.table import BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.timing import Repeats

LIMIT = measured("raw reads", Repeats((8.0, 10.0, 9.0)), "GB/s")
TABLE = BenchTable(
    bench="read",
    title="reading",
    denominators=(LIMIT,),
    rows=(measured("mettle", Repeats((8.1,)), "GB/s", of=LIMIT), unmeasured("other", "GB/s", "not installed | sorry")),
    goals=(Goal(what="mettle, of the limit", wanted=0.85, found=0.9),),
    notes=("a note",),
    repeats=5,
    machine={"processor": "one"},
    command="mettle bench read --repeats 5",
)
EXTRACT = replace(TABLE, bench="extract", goals=(Goal(what="slow", wanted=1, found=2, least=False),))


def save(folder, table, name=None):
    (folder / f"{name or table.bench}.json").write_text(json.dumps(table.to_json()))


def test_every_figure_command_and_machine_is_in_the_report():
    text = render_report([TABLE])
    assert "| raw reads | 9.00 GB/s | 8.00 to 10.0 |" in text
    assert "| mettle | 8.10 GB/s | 8.10 to 8.10 | 0.90 | raw reads |" in text
    assert "| other | - |  |  |  | not installed / sorry |" in text
    assert "| mettle, of the limit | at least 0.85 | 0.90 | yes |" in text
    assert "    mettle bench read --repeats 5\n" in text
    assert "- processor: one\n" in text
    assert "- a note\n" in text
    others = [name for name in BENCHES if name != "read"]
    assert f"Not run: {', '.join(f'`mettle bench {name}`' for name in others)}." in text


def test_a_goal_that_is_missed_is_shouted():
    assert "| slow | at most 1.00 | 2.00 | NO |" in render_report([EXTRACT])


def test_results_are_found_in_a_folder_and_kept_in_the_registrys_order(tmp_path):
    save(tmp_path, EXTRACT, "a")
    save(tmp_path, TABLE, "b")
    assert load_tables(tmp_path) == [TABLE, EXTRACT]


def test_a_folder_without_usable_results_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there are no results"):
        load_tables(tmp_path)
    with pytest.raises(UsageError, match="there are no results"):
        load_tables(tmp_path / "missing")
    save(tmp_path, TABLE, "a")
    save(tmp_path, TABLE, "b")
    with pytest.raises(UsageError, match=r"b\.json is a second result of 'read'"):
        load_tables(tmp_path)
    save(tmp_path, replace(TABLE, bench="sleep"), "b")
    with pytest.raises(UsageError, match=r"b\.json is of an unknown bench, 'sleep'"):
        load_tables(tmp_path)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UsageError, match=r"b\.json is not the result of a bench"):
        load_tables(tmp_path)
    (tmp_path / "b.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(UsageError, match=r"b\.json is too large"):
        load_tables(tmp_path)


@pytest.mark.parametrize(("change", "message"), [({"tiny": True}, "toy shapes"), ({"repeats": 4}, "4 repeats")])
def test_a_report_wants_full_shapes_and_enough_repeats(tmp_path, change, message):
    with pytest.raises(UsageError, match=f"'bench read' is of {message}"):
        write_report([replace(TABLE, **change)], tmp_path / "BENCHMARKS.md")
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "BENCHMARKS.md"
    path.write_text("old")
    write_report([TABLE], path)
    assert path.read_text() == render_report([TABLE])
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_bench_is_refused():
    with pytest.raises(UsageError, match="there is no bench 'sleep'"):
        run_bench("sleep", BenchOptions())
