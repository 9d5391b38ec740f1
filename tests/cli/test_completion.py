"""Shell completion by its protocol: what each shell is told for a word that is being typed, and that it is light."""

import json
import subprocess
import sys

import pytest

from mettle_cache.cli.main import run

CASES = {
    "mettle extr": ["extract"],
    "mettle extract --dataset avs": ["avs-s4", "avs-ms3"],
    "mettle extract --dataset ave --codec klt1.2": ["klt1.25"],
    "mettle extract --visual swin": ["swinv2_l"],
    "mettle extract --skip": ["--skip-missing"],
    "mettle methods lay": ["layermean"],
    "mettle train --from-cache --recipe llp": ["llp-small", "llp-swin-htsat"],
    "mettle recipes co": ["copy"],
    "mettle recipes show ave-vit": ["ave-vit-shared"],
    "mettle train --log w": ["wandb"],
    "mettle sweep --log n": ["none"],
    "mettle sweep table1": ["table10", "table11", "table12"],
    "mettle train --from-cache ca": ["cache/a.zarr"],
    "mettle info other/": ["other/b.zarr"],
    "mettle evaluate ru": ["runs", "runs/group", "runs/one"],
    "mettle evaluate runs/group/s": ["runs/group/seed-0"],
    "mettle evaluate runs/one --split v": ["val"],
    "mettle train --from-cache nosuch/": [],
}
CODE = """
import contextlib, io, json, os, sys
from mettle_cache.cli.main import run
found = {}
os.environ["_METTLE_COMPLETE"] = "complete_bash"
for words in json.load(sys.stdin):
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = words, str(words.count(" "))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run([])
    found[words] = code, said.getvalue().split()
print(json.dumps([found, sorted({"torch", "zarr", "timm", "numba", "matplotlib"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """What is offered for every case in a folder of stores and runs, and the heavy modules that were loaded for it."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("cache/a.zarr", "cache/notes", "other/b.zarr", "runs/one", "runs/group/seed-0", "runs/empty"):
        (folder / name).mkdir(parents=True)
    for name in ("runs/one", "runs/group/seed-0"):
        (folder / name / "config.json").touch()
    result = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps([*CASES]), capture_output=True, text=True, cwd=folder, check=True
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize("words", CASES)
def test_what_fits_is_offered(offered, words):
    assert offered[0][words] == [0, CASES[words]]


def test_nothing_heavy_loads_for_it(offered):
    assert offered[1] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_asks_us(monkeypatch, capsys, shell):
    monkeypatch.setenv("_METTLE_COMPLETE", f"source_{shell}")
    assert run([]) == 0
    script = capsys.readouterr().out
    assert f"_METTLE_COMPLETE=complete_{shell}" in script


def test_zsh_and_fish_are_told_what_a_value_is(monkeypatch, capsys):
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "mettle recipes ")
    monkeypatch.setenv("_METTLE_COMPLETE", "complete_zsh")
    assert run([]) == 0
    assert '"show":"Print a recipe' in capsys.readouterr().out
    monkeypatch.setenv("_METTLE_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert run([]) == 0
    assert "show\tPrint a recipe's TOML." in capsys.readouterr().out
