"""Pictures after an epoch: in the event files, within their share of the time, and never the end of a training."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mettle_cache.pipelines.train import epoch_pictures
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.training import train
from tests.pipelines.listener import Listener

RECIPE = ("lcd.dim=16", "train.epochs=2", "train.batch_size=4")


def shown(folder):
    return EventAccumulator(str(RunFolder(folder).events)).Reload()


def test_every_epoch_shows_the_same_samples_where_there_is_time(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(epoch_pictures, "SHARE", 1e9)
    train(tiny_store(8, 4, 4), recipe=load_recipe("ave-small", list(RECIPE)), out=tmp_path / "run")
    pictures = shown(tmp_path / "run").Images("val/timelines")
    assert [picture.step for picture in pictures] == [2, 4]
    assert pictures[0].width == pictures[1].width > 300


def test_a_training_of_seconds_spends_none_of_them_on_pictures(tiny_store, tmp_path):
    train(tiny_store(8, 4, 4), recipe=load_recipe("ave-small", list(RECIPE)), out=tmp_path / "run")
    assert shown(tmp_path / "run").Tags()["images"] == []


def test_a_drawing_that_fails_is_told_once(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(epoch_pictures, "SHARE", 1e9)
    monkeypatch.setattr(epoch_pictures, "_pixels", lambda figure: 1 / 0)
    heard = Listener()
    report = train(
        tiny_store(8, 4, 4), recipe=load_recipe("ave-small", list(RECIPE)), out=tmp_path / "run", progress=heard
    )
    assert report.epochs == 2
    assert len([note for note in heard.notes if "no pictures of epochs (ZeroDivisionError" in note]) == 1
