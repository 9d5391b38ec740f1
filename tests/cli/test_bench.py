"""``mettle bench`` as a command: documents, tables, and what it refuses."""

import json
from collections import namedtuple

import pytest

from mettle_cache.cli.main import run
from mettle_cache.pipelines.benchmark.registry import BENCHES
from mettle_cache.pipelines.benchmark.table import BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.timing import Repeats

LIMIT = measured("limit", Repeats((2.0,)), "GB/s")
TABLE = BenchTable(
    bench="read",
    title="reading",
    denominators=(LIMIT,),
    rows=(measured("ours", Repeats((1.0,)), "GB/s", of=LIMIT), unmeasured("theirs", "GB/s", "not installed")),
    goals=(Goal(what="ours", wanted=0.85, found=0.5),),
    notes=("a note",),
    repeats=5,
    command="mettle bench read",
)


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_help_with_examples(capsys, name):
    assert run(["bench", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"mettle bench {name} --tiny" in out.split("Examples:")[1]
    for option in ("--repeats", "--clips", "--tiny", "--folder", "--json", "--debug"):
        assert option in out


def test_a_bench_prints_one_document(mettle, tmp_path, monkeypatch):
    """The smallest real one: two clips, nobody to compare with."""
    monkeypatch.setattr("mettle_cache.pipelines.benchmark.read.BASELINES", ())
    code, document, _ = mettle("bench", "read", "--tiny", "--repeats", "1", "--clips", "2", "--folder", tmp_path)
    assert code == 0
    assert (document["bench"], document["repeats"], document["tiny"]) == ("read", 1, True)
    assert document["rows"]
    assert {"what", "wanted", "found", "met"} <= set(document["goals"][0])
    assert list(tmp_path.iterdir()) == []


def test_a_bench_prints_a_table_with_its_goals_and_notes(capsys, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.benchmark.registry.run_bench", lambda *_: TABLE)
    assert run(["bench", "read"]) == 0
    out = capsys.readouterr().out
    assert "read: reading" in out
    assert "goal       ours: 0.50 (at least 0.85 wanted): NOT met" in out
    assert "note       a note" in out
    assert "not installed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["read", "--clips", "0"], "--clips 0: must be from 1"),
        (["read", "--repeats", "0"], "--repeats 0: must be from 1"),
        (["costs", "--batch", "0"], "--batch 0: must be from 1"),
        (["costs", "--recipe", "nosuch"], "--recipe nosuch: the paper prints no costs"),
        (["costs", "--method", "nosuch"], "--method nosuch: no such method for ave-swin-htsat"),
        (["raed"], "No such command 'raed'"),
        ([], "name a bench, or ask for all of them"),
        (["--report", "read"], "takes no bench's name"),
        (["--report", "--from", "nowhere"], "there are no results"),
    ],
)
def test_wrong_usage_is_refused(mettle, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, document, _ = mettle("bench", *arguments)
    assert code == 2
    assert message in document["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_before_anything_is_written(mettle, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mettle_cache.store.writing.durable.shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    code, document, _ = mettle("bench", "read", "--tiny", "--folder", tmp_path)
    assert code == 1
    assert document["error"]["kind"] == "NoRoomError"
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_written_from_saved_results(mettle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "read.json").write_text(json.dumps(TABLE.to_json()))
    code, document, _ = mettle("bench", "--report", "--from", "results")
    assert code == 0
    assert document["report"] == "BENCHMARKS.md"
    assert [bench["bench"] for bench in document["benches"]] == ["read"]
    assert "| ours | 1.00 GB/s |" in (tmp_path / "BENCHMARKS.md").read_text()


def test_the_report_runs_every_bench_where_no_results_are_given(mettle, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "mettle_cache.pipelines.benchmark.report.run_bench", lambda name, *_: asked.append(name) or TABLE
    )
    code, _, _ = mettle("bench", "--report", "--out", tmp_path / "here.md", "--repeats", "6")
    assert code == 0
    assert asked == list(BENCHES)
    assert (tmp_path / "here.md").is_file()
