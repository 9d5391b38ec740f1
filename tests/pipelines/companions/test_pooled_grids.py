"""Training from pooled grids beside the store, and without them."""

import shutil

import pytest
import torch

from mettle_cache.methods.pooled import pooled_tokens
from mettle_cache.pipelines.companions import pooled_grids as grids_module
from mettle_cache.pipelines.companions.pooled_grids import pooled_grids
from mettle_cache.pipelines.compare.tokens import ClipMeanStore
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.sample_loader import SampleLoader
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train, train_runs
from mettle_cache.store import TokenStore
from tests.pipelines.listener import Listener
from tests.pipelines.tiny_store import LAYERS

CPU = torch.device("cpu")
LEARN = ("train.epochs=2", "train.learning_rate=0.02")


def means(*changes):
    """A recipe of the method that is registered for these tests."""
    return load_recipe("ave-small", ["method=pooled", *LEARN, *changes])


def lcd():
    return load_recipe("ave-small", ["lcd.dim=16", "train.epochs=1"])


pytestmark = pytest.mark.usefixtures("pooled_method")


@pytest.fixture
def store(tiny_store, tmp_path):
    shutil.copytree(tiny_store(8, 3, 3).path, tmp_path / "s.zarr")
    return TokenStore.open(tmp_path / "s.zarr")


def test_training_reads_grids_in_the_place_of_whole_layers_and_makes_them_once(store, tmp_path, monkeypatch):
    listener = Listener()
    report = train(store.path, recipe=means(), out=tmp_path / "run", progress=listener)
    assert "2 layers are read on coarser grids" in listener.notes[0]
    (companion,) = (store.path / "companions").iterdir()
    monkeypatch.setattr(grids_module, "make_companions", None)
    again = train(store.path, recipe=means(), out=tmp_path / "again")
    losses = [[row["loss"] for row in each.history] for each in (report, again)]
    assert losses[0] == losses[1]
    assert evaluate(tmp_path / "run", store=store.path, pictures=False).scores
    assert companion.name.startswith("pooled-mean-2x2-")


def test_heads_learn_the_same_with_and_without_companions_within_their_rounding(store, tmp_path, monkeypatch):
    with_them = train(store, recipe=means("pooled.how=both"), out=tmp_path / "with")
    scores = evaluate(tmp_path / "with", store=store, pictures=False).scores
    monkeypatch.setattr(TokenStore, "companion_folder", None)
    listener = Listener()
    without = train(store, recipe=means("pooled.how=both"), out=tmp_path / "without", progress=listener)
    assert listener.notes[0] == f"{store.path} takes nothing beside it: layers are pooled whenever they are read"
    for one, other in zip(with_them.history, without.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)
    assert evaluate(tmp_path / "with", store=store, pictures=False).scores == pytest.approx(scores)


def test_a_batch_has_what_pooling_the_whole_layers_gives(store):
    task = bind_task(means("pooled.how=both"), store)
    grids = pooled_grids(store, task.pooled, Silent())
    brought, whole = (SampleLoader.for_tasks(store, [task], device=CPU, grids=some) for some in (grids, ()))
    rows = [5, 0, 7]
    for one, other in zip(brought.batches(rows, 2), whole.batches(rows, 2), strict=True):
        assert one.tokens.clips == other.tokens.clips
        # layers that are on the grid already are read whole
        assert [*one.tokens.layers] == [
            "visual/s2b01",
            "visual/s2b02",
            "audio/s2b01",
            "max/visual/s1b01",
            "max/audio/s1b01",
            "mean/visual/s1b01",
            "mean/audio/s1b01",
        ]
        for each in task.pooled:
            expected = pooled_tokens(other.tokens.layers, each)
            torch.testing.assert_close(pooled_tokens(one.tokens.layers, each), expected, rtol=2**-11, atol=2**-24)


def test_what_any_head_of_the_pass_reads_whole_is_read_whole(store):
    tasks = [bind_task(means(), store), bind_task(lcd(), store)]
    grids = pooled_grids(store, [each for task in tasks for each in task.pooled], Silent())
    loader = SampleLoader.for_tasks(store, tasks, device=CPU, grids=grids)
    (batch,) = loader.batches([0], 1)
    assert {*batch.tokens.layers} == {layer.name for layer in LAYERS} | {"mean/visual/s1b01", "mean/audio/s1b01"}
    assert loader.nbytes == batch.tokens.nbytes


def test_grids_alone_are_enough(store):
    task = bind_task(means("pooled.side=1"), store)
    grids = pooled_grids(store, task.pooled, Silent())
    loader = SampleLoader.for_tasks(store, [task], device=CPU, grids=grids)
    assert loader.names == []
    loader.compile_kernels([0], None)
    (batch,) = loader.batches([0], 1)
    assert batch.tokens.clips == (0,)
    assert {*batch.tokens.layers} == {each.name for each in task.pooled}


def test_of_two_grids_of_one_layer_both_are_pooled_from_the_whole(store, tmp_path):
    other = means("pooled.side=1")
    specs = [
        RunSpec(recipe=recipe, seed=0, folder=tmp_path, name=name) for name, recipe in (("a", means()), ("b", other))
    ]
    group = train_runs(store, specs)
    assert not group.errors
    alone = train(store, recipe=other, out=tmp_path / "alone")
    assert group.heads[1].history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=2e-3)


def test_heads_that_read_whole_layers_touch_no_companion(store, tmp_path):
    train(store, recipe=lcd(), out=tmp_path / "run")
    assert not (store.path / "companions").exists()


def test_a_run_that_may_not_be_trained_pools_nothing(store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("")
    with pytest.raises(Exception, match=r"mine\.txt"):
        train(store, recipe=means(), out=tmp_path / "run")
    assert not (store.path / "companions").exists()


def test_clip_means_have_nothing_beside_them(store):
    clip_means = ClipMeanStore.open(store.path)
    assert pooled_grids(clip_means, bind_task(means(), clip_means).pooled, Silent()) == ()
    assert not (store.path / "companions").exists()
