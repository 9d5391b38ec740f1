"""Commands that only tell, and errors about a wrong argument, load none of the libraries that take seconds."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = {"torch", "torchvision", "torchaudio", "timm", "transformers", "numba", "zarr", "dask", "tensorboard"}
TELLING = (
    "--help",
    "--version",
    "train --help",
    "bench read --help",
    "sweep --list",
    "recipes list",
    "ls",
    "clean",
    "recipes show ave-small",
    "datasets",
    "backbones",
    "doctor --no-measure",
)
WRONG = {
    "trian": "No such command",
    "info NOSUCH": "there is no token store at NOSUCH",
    "verify NOSUCH": "there is no token store at NOSUCH",
    "extract --dataset nosuch": "no data set is called 'nosuch'",
    "extract --dataset ave": "the ave folder data/AVE does not exist",
    "extract --dataset ave --option train=1": "the data set ave has no option 'train'",
    "extract --dataset ave --root . --codec int5": "no codec is called 'int5'",
    "extract --dataset ave --root . --visual swinv2_1": "unknown backbone 'swinv2_1'",
    "extract --dataset ave --root . --audio nosuch": "unknown backbone 'nosuch'",
    "extract --dataset ave --root . --visual htsat": "reads sound, not pictures",
    "extract --dataset ave --root . --layers visual/s9": "no such layer: visual/s9",
    "extract --dataset ave --root . --audio shared --layers audio/s3b19": "no such layer: audio/s3b19",
    "extract --dataset ave --root . --device gpu": "there is no device called 'gpu'",
    "extract --dataset ave --part 3/2": "--part 3/2",
    "extract --dataset ave --precision half": "--precision half",
    "recode NOSUCH --codec int8 --out NEW": "there is no token store at NOSUCH",
    "recode NOSUCH --codec int5 --out NEW": "no codec is called 'int5'",
    "plan --dataset nosuch": "no data set is called 'nosuch'",
    "methods nosuch": "no method is called 'nosuch'",
    "methods --task nosuch": "no task is called 'nosuch'",
    "train --from-cache --seed 1 --seeds 2": "exclude each other",
    "train --from-cache --seeds x": "'x' is no seed",
    "train --from-cache": "there is no finished store under cache/",
    "train --from-cache NOSUCH": "there is no token store at NOSUCH",
    "train --from-cache --select-on best": "--select-on best: choose one of val, test, last",
    "train --from-cache --device gpu": "there is no device called 'gpu'",
    "train --from-cache --recipe nosuch": "there is no recipe called 'nosuch'",
    "sweep --from-cache --recipe ave-smal": "did you mean ave-small?",
    "evaluate NOSUCH --device gpu": "there is no device called 'gpu'",
    "evaluate NOSUCH --store NOSUCH": "there is no token store at NOSUCH",
    "evaluate NOSUCH --root NOSUCH": "there is no such folder",
    "export NOSUCH --device gpu": "there is no device called 'gpu'",
    "report NOSUCH --out page.txt": "a page is an HTML file",
    "report NOSUCH --out page.html --root NOSUCH": "there is no such folder",
    "predict NOSUCH a.mp4 --device gpu": "there is no device called 'gpu'",
    "report NOSUCH --figures F --device gpu": "there is no device called 'gpu'",
    "bench read --device gpu": "there is no device called 'gpu'",
    "sweep --from-cache --set x": "must be key=value",
    "sweep": "--from-cache is missing",
    "sweep tabel5 --from-cache": "there is no sweep called 'tabel5'",
    "sweep --from-cache table5": "table5 is a sweep, not a store",
    "sweep --from-cache --rows Ours": "--rows is for the rows of a sweep, and none is named",
    "sweep --from-cache --plan": "--plan is for the rows of a sweep, and none is named",
    "sweep table5 --from-cache --variant lcd.dim=8": "the variants of a sweep file are its rows",
    "sweep table5 --from-cache": "there is no finished store under cache/",
    "sweep --from-cache NOSUCH": "there is no token store at NOSUCH",
    "pretrain-grounding --from-cache NOSUCH": "there is no token store at NOSUCH",
    "pretrain-grounding --from-cache --videos some": "--videos some",
    "bench nosuch": "No such command",
    "analyse similarity NOSUCH": "there is no token store at NOSUCH",
    "analyse fusion NOSUCH --device gpu": "there is no device called 'gpu'",
    "analyse fusion NOSUCH --store NOSUCH": "there is no token store at NOSUCH",
    "bench read --repeats 0": "--repeats 0",
    "bench --report --from NOSUCH": "there are no results",
}
NO_RUN = ("evaluate NOSUCH", "predict NOSUCH a.mp4", "export NOSUCH", "report NOSUCH --figures F")
# one after the other in one process: what is loaded by then was loaded by the first command that has it
CODE = f"""
import contextlib, io, json, sys
from mettle_cache.cli.main import run
found = {{}}
for command in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = run(command.split())
    found[command] = code, sorted({HEAVY} & set(sys.modules)), said.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Every command, run in a new process and an empty folder: its exit code, the heavy modules, what it said."""
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps([*TELLING, *WRONG, *NO_RUN]),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("empty"),
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", TELLING)
def test_what_only_tells_is_light(loaded, command):
    assert loaded[command][:2] == [0, []]


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_argument_is_refused_before_anything_heavy_loads(loaded, command):
    code, modules, said = loaded[command]
    assert (code, modules) == (2, [])
    assert WRONG[command] in said


@pytest.mark.parametrize("command", NO_RUN)
def test_a_folder_that_is_no_run_is_refused_as_early(loaded, command):
    code, modules, said = loaded[command]
    assert (code, modules) == (1, [])
    assert "no run here" in said


def test_the_list_of_heavy_modules_is_of_modules_that_there_are():
    """A name that is misspelled here would never be found."""
    assert [name for name in HEAVY if find_spec(name) is None] == []
