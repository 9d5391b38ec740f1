"""``mettle recipes``: every recipe is listed, shown as it is, and copied without writing over anything."""

import json
from pathlib import Path

import pytest

from mettle_cache.cli.main import run
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.registry import TaskRow
from mettle_cache.tasks.registry import TASKS

FOLDER = Path(__file__).parents[2] / "pipelines" / "recipes"


def test_every_recipe_is_listed_with_what_it_is(capsys):
    assert run(["recipes", "list", "--json"]) == 0
    entries = {one["name"]: one for one in json.loads(capsys.readouterr().out)["recipes"]}
    assert set(entries) == {path.stem for path in FOLDER.glob("*.toml")}
    for name, entry in entries.items():
        recipe = load_recipe(name)
        assert (entry["task"], entry["method"], entry["problem"]) == (recipe.task, recipe.method, "")
        assert entry["about"]
    assert run(["recipes", "list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_packages_recipe_is_listed_and_a_lost_one_says_so(capsys):
    TASKS.register(TaskRow("mine", "nowhere:TASK", recipe="mettle_cache.pipelines:recipes/ave-small.toml"))
    TASKS.register(TaskRow("lost", "nowhere:TASK", recipe="mettle_cache.pipelines:nosuch.toml"))
    try:
        assert run(["recipes", "list", "--json"]) == 0
    finally:
        TASKS.unregister("mine")
        TASKS.unregister("lost")
    *_, mine, lost = json.loads(capsys.readouterr().out)["recipes"]
    assert (mine["task"], mine["problem"]) == ("avel", "")
    assert "brings no recipe nosuch.toml" in lost["problem"]


@pytest.mark.parametrize("name", ["ave-swin-htsat", "table9"])
def test_a_recipe_or_sweep_is_shown_as_it_is(capsys, name):
    assert run(["recipes", "show", name]) == 0
    (path,) = FOLDER.rglob(f"{name}.toml")
    assert capsys.readouterr().out == path.read_text("utf-8")


def test_a_copy_is_a_recipe_and_nothing_is_written_over(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["recipes", "copy", "ave-small"]) == 0
    assert "mettle train --from-cache --recipe ave-small.toml" in capsys.readouterr().out
    assert Path("ave-small.toml").read_text("utf-8") == (FOLDER / "ave-small.toml").read_text("utf-8")
    assert load_recipe("./ave-small.toml").task == "avel"
    Path("ave-small.toml").write_text("mine")
    assert run(["recipes", "copy", "ave-small"]) == 2
    assert "ave-small.toml is there already, and is not written over" in capsys.readouterr().err
    assert Path("ave-small.toml").read_text() == "mine"
    Path("folder").mkdir()
    assert run(["recipes", "copy", "llp-small", "folder"]) == 0
    assert Path("folder/llp-small.toml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes"], "say what to do with recipes"),
        (["recipes", "show", "ave-smal"], "did you mean ave-small?"),
        (["recipes", "copy", "nosuch"], "there is no recipe called 'nosuch'"),
        (["recipes", "copy", "ave-small", "nosuch/a.toml"], "nosuch/a.toml cannot be written"),
    ],
)
def test_what_is_refused(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
