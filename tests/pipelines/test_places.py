"""A path of the wrong kind: what is there is said, and the command that takes it."""

import shlex
from pathlib import Path

import pytest

from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import RunError, StoreMissingError
from mettle_cache.pipelines.places import require_one_run, require_run, require_store
from mettle_cache.pipelines.train.run_folder import RunFolder


@pytest.fixture(scope="module")
def here(tiny_store, tmp_path_factory):
    """A folder with one of everything, below a name that a shell would take apart."""
    folder = tmp_path_factory.mktemp("my things")
    (folder / "cache").mkdir()
    (folder / "cache" / "ave.zarr").symlink_to(tiny_store(2, 1, 1).path)
    for run in ("runs/one", "runs/seeds/seed-0", "runs/seeds/seed-1"):
        (folder / run).mkdir(parents=True)
        (folder / run / "config.json").write_text("{}")
    write_demo_ave(folder / "AVE", train=1, val=1, test=1)
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    return folder


NO_STORE = {
    "runs/one": ("it is a training run", "mettle evaluate"),
    "runs/seeds": ("it holds training runs", "mettle evaluate"),
    "AVE": ("it is a data set (ave)", "mettle extract --dataset ave --root"),
    "cache": ("it is a folder of stores", "ave.zarr"),
    "cache/ave.zarr/visual": ("it is a part of one", "cache/ave.zarr"),
    "cache/ave.zarr/samples.parquet": ("it is a part of one", "cache/ave.zarr"),
    "empty": ("the folder is empty", "mettle extract"),
    "notes": ("the folder holds a.txt", "mettle extract"),
    "runs/one/config.json": ("it is a file", "runs/one"),
    "cache/avd.zarr": ("there is no token store", "did you mean"),
}
NO_RUN = {
    "cache/ave.zarr": ("it is a token store", "mettle train --from-cache"),
    "AVE": ("it is a data set (ave)", "mettle extract --dataset ave --root"),
    "cache": ("it is a folder of stores", "ave.zarr"),
    "empty": ("the folder is empty", "train or sweep"),
    "runs/one/config.json": ("it is a file", "name the run's folder"),
    "runs/onne": ("no run here", "runs/one"),
}


@pytest.mark.parametrize("name", NO_STORE)
def test_what_is_no_store_is_named_for_what_it_is(here, name):
    what, hint = NO_STORE[name]
    with pytest.raises(StoreMissingError) as caught:
        require_store(here / name)
    assert f"there is no token store at {here / name}" in caught.value.message
    assert what in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", NO_RUN)
def test_what_is_no_run_is_named_for_what_it_is(here, name):
    what, hint = NO_RUN[name]
    with pytest.raises(RunError) as caught:
        require_run(here / name)
    assert what in caught.value.message
    assert hint in caught.value.hint


def test_what_is_there_passes(here, tmp_path):
    require_store(here / "cache/ave.zarr")
    (tmp_path / "killed.zarr").mkdir()
    require_store(tmp_path / "killed.zarr")
    for run in ("runs", "runs/one", "runs/seeds"):
        require_run(here / run)
    require_one_run(here / "runs/one")


def test_one_run_is_asked_for_where_there_are_several(here):
    with pytest.raises(RunError, match="this is a folder of runs, not a run") as caught:
        RunFolder(here / "runs/seeds").read_config()
    assert str(here / "runs/seeds/seed-0") in caught.value.hint


def test_a_proposed_command_survives_the_shell(here):
    with pytest.raises(StoreMissingError) as caught:
        require_store(here / "runs/one")
    assert shlex.split(caught.value.hint)[-1] == str(here / "runs/one")


def test_a_relative_path_is_compared_with_its_neighbours(here, monkeypatch):
    monkeypatch.chdir(here)
    with pytest.raises(StoreMissingError) as caught:
        require_store(Path("emty"))
    assert caught.value.hint == "did you mean empty?"
