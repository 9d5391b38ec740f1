"""Rows of this package and of others: entry points that are really there, in packages written for the test."""

import subprocess
import sys

import pytest

from mettle_cache.errors import PluginError, UsageError
from mettle_cache.registry import DatasetRow, Registry, Row, TaskRow

GROUP = "mettle_cache.tests"
ROWS = (DatasetRow("ave", "json:dumps", task="avel"), DatasetRow("llp", "json:no_such_function"))
MODULE = """
from mettle_cache.registry import DatasetRow, TaskRow

BIRDS = DatasetRow("birds", "toy_birds:OBJECT", task="avel", layers="stages")
BATS = TaskRow("bats", "toy_birds:OBJECT")
AVE = DatasetRow("ave", "toy_birds:OBJECT")
OBJECT = ["the object"]
"""
POINTS = """[mettle_cache.tests]
birds = toy_birds:BIRDS
finches = toy_birds:BIRDS
bats = toy_birds:BATS
ave = toy_birds:AVE
lost = toy_nowhere:ROW
odd = toy_birds:OBJECT

[mettle_cache.others]
elsewhere = toy_birds:BIRDS
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package with one good entry point and five that are of no use."""
    (tmp_path / "toy_birds.py").write_text(MODULE)
    info = tmp_path / "toy_birds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-birds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("toy_birds", None)


def open_registry():
    return Registry("data set", GROUP, DatasetRow, ROWS)


def test_rows_of_another_package_come_after_ours(packages):
    registry = open_registry()
    assert registry.names() == ["ave", "llp", "birds"]
    assert [row.name for row in registry] == registry.names()
    assert "birds" in registry
    assert "elsewhere" not in registry
    assert (registry.row("birds").task, registry.row("birds").layers) == ("avel", "stages")
    assert registry.load("birds") is sys.modules["toy_birds"].OBJECT


def test_entry_points_that_are_of_no_use_say_why_and_cost_nothing_else(packages):
    registry = open_registry()
    broken = registry.broken
    assert list(broken) == ["finches", "bats", "ave", "lost", "odd"]
    assert broken["finches"] == "toy-birds, entry point toy_birds:BIRDS: its row is called 'birds'"
    assert broken["bats"].endswith("is no DatasetRow but a TaskRow")
    assert broken["odd"].endswith("is no DatasetRow but a list")
    assert broken["ave"].endswith("the name is taken by json:dumps")
    assert broken["lost"].endswith("ModuleNotFoundError: No module named 'toy_nowhere'")
    assert registry.row("ave").target == "json:dumps"
    with pytest.raises(PluginError, match="the data set 'lost' comes from a broken plug-in: toy-birds, entry point"):
        registry.row("lost")


def test_a_module_is_loaded_at_use_and_a_row_without_its_object_is_an_error():
    code = (
        "import sys; from mettle_cache.registry import DatasetRow, Registry\n"
        "r = Registry('data set', 'none', DatasetRow, [DatasetRow('a', 'wave:open')])\n"
        "assert 'a' in r and r.row('a').name == 'a' and 'wave' not in sys.modules and 'torch' not in sys.modules\n"
        "assert r.load('a') is sys.modules['wave'].open"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
    with pytest.raises(PluginError, match=r"'llp' stands for json:no_such_function, .* AttributeError: .*") as caught:
        open_registry().load("llp")
    assert "the package that provides json" in caught.value.hint
    with pytest.raises(PluginError, match="ModuleNotFoundError"):
        Row("x", "no_such_package_here:ROW").load()


def test_an_unknown_name_gets_a_guess_and_the_list():
    with pytest.raises(UsageError, match="no data set is called 'lpp'") as caught:
        open_registry().row("lpp")
    assert caught.value.hint == "did you mean llp? use one of ave, llp"
    with pytest.raises(UsageError, match="no task is called 'x'") as caught:
        Registry("task", GROUP, TaskRow, ()).row("x")
    assert caught.value.hint == "use one of (none installed)"


def test_a_row_by_hand_takes_no_name_that_is_taken(packages):
    registry = open_registry()
    for name, target in (("llp", "json:no_such_function"), ("birds", "toy_birds:OBJECT")):
        with pytest.raises(ValueError, match=f"a data set named '{name}' is registered already: {target}"):
            registry.register(DatasetRow(name, "json:loads"))
    mine = registry.register(DatasetRow("mine", "json:loads"))
    assert registry.row("mine") is mine
    registry.unregister("mine")
    assert "mine" not in registry
