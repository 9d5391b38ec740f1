"""From a request to runs: what is left out follows from the store."""

import json
import shutil
from pathlib import Path

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.job import start_seeds, start_sweep, start_training
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.spec import Variant
from tests.pipelines.listener import Listener

ONE_EPOCH = ("train.epochs=1", "lcd.dim=8")


@pytest.fixture
def place(tiny_store, tmp_path, monkeypatch):
    """The current folder, with one store where the newest is looked for."""
    shutil.copytree(tiny_store(6, 2, 2).path, tmp_path / "cache" / "small.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seen(run):
    config = RunFolder(Path(run)).read_config()
    return config.recipe["name"], config.recipe["lcd"]["dim"], config.seed, config.select_on


def test_store_recipe_and_folder_are_chosen_and_said(place):
    heard = Listener()
    report = start_training(TrainJob(overrides=ONE_EPOCH, seed=3, select_on="last"), heard)
    assert report.out == Path("runs/small-ave-small-3")
    assert heard.notes[0] == "store cache/small.zarr, recipe ave-small, seed 3, run runs/small-ave-small-3"
    assert seen(report.out) == ("ave-small", 8, 3, "last")
    with pytest.raises(RunError, match="a run is here already"):
        start_training(TrainJob(overrides=ONE_EPOCH, seed=3, select_on="last"), Silent())
    again = start_training(TrainJob(overrides=ONE_EPOCH, seed=3, select_on="last", resume=True), Silent())
    assert again.epochs == 1


def test_seeds_lie_side_by_side_in_a_folder_of_the_recipe(place):
    group = start_seeds(TrainJob(overrides=ONE_EPOCH), [2, 5], Silent())
    assert [head.out for head in group.heads] == [Path(f"runs/small-ave-small/seed-{seed}") for seed in (2, 5)]
    assert [seen(head.out)[2] for head in group.heads] == [2, 5]


def test_a_sweep_has_every_variant_with_every_seed(place):
    variants = [Variant(common=("train.epochs=1",), varied=(f"lcd.dim={dim}",)) for dim in (4, 8)]
    group = start_sweep(TrainJob(out=Path("s"), overrides=("lcd.dim=99",)), variants, [0, 1], Silent())
    assert [(seen(head.out)[1:3], head.variant) for head in group.heads] == [
        ((dim, seed), f"lcd.dim={dim}") for dim in (4, 8) for seed in (0, 1)
    ]
    assert {head.out.parent.parent for head in group.heads} == {Path("s")}
    assert json.loads((group.heads[0].out / "result.json").read_text())["training"]["variant"] == "lcd.dim=4"


def test_the_folder_of_one_run_is_refused_for_several(place):
    out = start_training(TrainJob(overrides=ONE_EPOCH, out=Path("one")), Silent()).out
    with pytest.raises(RunError, match="one: this is the folder of one run"):
        start_seeds(TrainJob(overrides=ONE_EPOCH, out=out), [1], Silent())
    assert not (out / "seed-1").exists()
