"""A method that another package registers, in training and evaluation, its own loss included."""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.methods.registry import METHODS, MethodChoice
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train
from tests.pipelines.mean_method import Mean, MeanOptions
from tests.pipelines.tiny_store import LAYERS

RECIPE = ("ave-small", ["method=mean", "mean.dim=16", "train.epochs=3", "train.learning_rate=0.02"])

pytestmark = pytest.mark.usefixtures("mean_method")


@pytest.fixture
def store(tiny_store):
    return tiny_store(12, 6, 6)


def test_it_trains_and_evaluates(store, tmp_path):
    report = train(store, recipe=load_recipe(*RECIPE), out=tmp_path / "run")
    losses = [row["loss_auxiliary_size"] for row in report.history]
    assert all(row["loss"] > row["loss_auxiliary_size"] > 0 for row in report.history)
    without = train(store, recipe=load_recipe(RECIPE[0], [*RECIPE[1], "mean.weight=0.0"]), out=tmp_path / "without")
    assert without.history[-1]["loss_auxiliary_size"] == 0
    assert losses[-1] != without.history[-1]["loss"]
    result = evaluate(tmp_path / "run", store=store, pictures=False)
    assert "method = mean instead of lcd" in " ".join(result.differs)
    assert export_run(tmp_path / "run", store=store, repeats=1).folded == {}


def test_its_loss_is_part_of_the_gradient(store):
    task = bind_task(load_recipe(RECIPE[0], [*RECIPE[1], "mean.weight=2.0"]), store)
    model = task.build_model()
    assert isinstance(model.method, Mean)
    outputs = model(store.read([0, 1]).layers)
    meta_tokens = model.method(store.read([0, 1]).layers)
    expected = 2.0 * torch.stack([meta_tokens.visual, meta_tokens.audio]).square().mean()
    torch.testing.assert_close(outputs["auxiliary_size"], expected)


def test_only_the_layers_that_it_names_are_read(store):
    layers = bind_task(load_recipe(*RECIPE), store).layers
    assert layers == (LAYERS[2], LAYERS[4])
    assert bind_task(load_recipe("ave-small", ["method=linear"]), store).layers == (LAYERS[2], LAYERS[4])


def test_what_a_choice_refuses():
    listed = ", ".join(METHODS.names())
    with pytest.raises(
        UsageError, match=rf"no method is called 'maen'\n  next: did you mean mean\? use one of {listed}$"
    ):
        MethodChoice("maen", MeanOptions()).build(LAYERS)
    with pytest.raises(UsageError, match="the method lcd takes LCDOptions, not MeanOptions"):
        MethodChoice("lcd", MeanOptions()).build(LAYERS)
    with pytest.raises(UsageError, match="the method mean needs stats beside the store, which is not there"):
        MethodChoice("mean", MeanOptions(companion="stats")).build(LAYERS)
    assert {"lcd", "linear", "mean"} <= set(METHODS.names())
