"""``mettle ls`` and ``mettle clean`` on a store and a run of their own."""

import shutil
from types import SimpleNamespace

import pytest

from mettle_cache.cli.ls import entry_lines, state_of
from mettle_cache.pipelines.inventory.entries import Entry


def entry(**changes):
    facts = {"path": "cache/a.zarr", "kind": "store", "state": "finished", "nbytes": 39_700_000, "modified": 0.0}
    return Entry(**{**facts, **changes})


def test_stores_and_runs_are_a_table_each():
    store = entry(codec="int8", done=3, total=50)
    run = entry(path="runs/x", kind="run", state="evaluated", score=57.143, scored="test accuracy")
    lines = entry_lines([run, store], 7200.0)
    assert [line.split() for line in lines] == [
        ["state", "codec", "size", "age", "store"],
        ["finished", "3/50", "int8", "39.7", "MB", "2", "h", "0", "min", "cache/a.zarr"],
        [],
        ["state", "score", "size", "age", "run"],
        ["evaluated", "57.14", "test", "accuracy", "39.7", "MB", "2", "h", "0", "min", "runs/x"],
    ]
    assert entry_lines([], 0.0)[0] == "no stores and no runs here"


def test_an_unfinished_one_says_how_far_it_is():
    assert state_of(entry(state="unfinished", done=12, total=50)) == "unfinished 12/50"
    assert state_of(entry(state="unfinished")) == "unfinished"
    assert state_of(SimpleNamespace(state="evaluated", done=2, total=3)) == "evaluated"


@pytest.fixture
def place(whole, tmp_path, monkeypatch):
    """A folder with a finished store under ``cache/`` in which a writer was killed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "cache/a.zarr")
    (tmp_path / "cache/a.zarr/commits/00000000.jsonl.partial").write_bytes(b"left")
    return tmp_path


def test_nothing_goes_without_yes_and_a_store_only_where_it_is_named(place, mettle):
    code, document, _ = mettle("ls")
    (one,) = document["entries"]
    assert (code, one["path"], one["state"], one["codec"]) == (0, "cache/a.zarr", "finished", "int8")
    store, left = place / "cache/a.zarr", place / "cache/a.zarr/commits/00000000.jsonl.partial"
    code, document, _ = mettle("clean")
    assert (code, [gone["path"] for gone in document["removals"]]) == (0, [str(left.relative_to(place))])
    assert document["removed"] == []
    assert left.exists()
    assert mettle("clean", "--yes")[1]["removed"] == [str(left.relative_to(place))]
    assert not left.exists()
    assert store.exists()
    assert mettle("clean", "cache/a.zarr")[1]["removals"][0]["what"] == "finished store"
    assert store.exists()
    code, document, _ = mettle("clean", "cache/a.zarr", "--yes")
    assert (code, document["removed"]) == (0, ["cache/a.zarr"])
    assert document["nbytes"] > 0
    assert not store.exists()
    code, document, _ = mettle("ls", "nosuch")
    assert (code, document["error"]["message"]) == (2, "there is no folder nosuch")
