"""From a request to runs: what is left out follows from the store."""

import json
import shutil
from pathlib import Path

import pytest

from mettle_cache.errors import RunError, StoreMissingError
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.job import resume_runs, start_seeds, start_sweep, start_training
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


def curve(report):
    return [(row["loss"], row["val_accuracy"], row["learning_rate"]) for row in report.history]


def test_a_run_is_made_longer_by_its_folder_alone_to_the_numbers_of_a_long_one(place):
    long = ("train.epochs=4", "train.step_size=2", *ONE_EPOCH[1:])
    whole = start_training(TrainJob(overrides=long, seed=3, out=Path("whole")), Silent())
    start_training(TrainJob(overrides=(*long, "train.epochs=1"), seed=3, out=Path("run")), Silent())
    heard = Listener()
    same = start_training(TrainJob(resume=True, out=Path("run")), heard)
    assert (same.epochs, same.seed) == (1, 3)
    assert "finished already, after 1 epochs; --set train.epochs=N makes it longer" in heard.notes
    longer = start_training(TrainJob(resume=True, out=Path("run"), overrides=("train.epochs=4",)), Silent())
    assert curve(longer) == curve(whole)
    assert seen("run") == seen("whole")
    with pytest.raises(RunError, match=r"train\.epochs = 4 there, 3 was asked for: it can only get longer"):
        start_training(TrainJob(resume=True, out=Path("run"), overrides=("train.epochs=3",)), Silent())
    with pytest.raises(RunError, match=r"lcd\.dim = 8 there, 16 was asked for; seed = 3 there, 0 was asked for"):
        start_training(TrainJob(resume=True, out=Path("run"), overrides=("lcd.dim=16",), seed=0), Silent())


def test_the_result_of_a_finished_run_stays_and_a_damaged_one_is_written_again(place):
    job = TrainJob(overrides=ONE_EPOCH, out=Path("run"))
    start_training(job, Silent())
    before = json.loads(Path("run/result.json").read_text())
    start_training(TrainJob(resume=True, out=Path("run")), Silent())
    assert json.loads(Path("run/result.json").read_text()) == before
    Path("run/result.json").write_text("{}")
    heard = Listener()
    start_training(TrainJob(resume=True, out=Path("run")), heard)
    assert any("result.json: not what the run's config.json lists" in note for note in heard.notes)
    assert json.loads(Path("run/result.json").read_text())["training"]["history"] == before["training"]["history"]


def test_all_runs_of_a_folder_are_resumed_by_their_records(place):
    variants = [Variant(common=("train.epochs=1",), varied=(f"lcd.dim={dim}",)) for dim in (4, 8)]
    start_sweep(TrainJob(out=Path("s"), seed=None), variants, [0, 1], Silent())
    job = TrainJob(out=Path("s"), resume=True, overrides=("train.epochs=2",))
    group = resume_runs(job, Silent())
    assert [(seen(head.out)[1:3], head.variant, head.epochs) for head in group.heads] == [
        ((dim, seed), f"lcd.dim={dim}", 2) for dim in (4, 8) for seed in (0, 1)
    ]


def test_a_store_that_moved_is_found_where_it_is_said_to_be_and_remembered(place):
    start_training(TrainJob(overrides=ONE_EPOCH, out=Path("run")), Silent())
    Path("cache").rename("elsewhere")
    with pytest.raises(StoreMissingError, match=r"run: its store is not at .*small\.zarr\n  next: .*--from-cache"):
        start_training(TrainJob(resume=True, out=Path("run")), Silent())
    moved = Path("elsewhere/small.zarr")
    start_training(TrainJob(resume=True, out=Path("run"), store=moved), Silent())
    assert start_training(TrainJob(resume=True, out=Path("run")), Silent()).epochs == 1


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
