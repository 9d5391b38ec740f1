"""LST and UniPT through the pipelines: training, resuming, evaluation and export, on AVE's and on LLP's head."""

import pytest
import torch

from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train

METHODS = ("lst", "unipt")


def overrides(method, epochs):
    sizes = ["dim=16", "width_visual=16", "width_audio=16"]
    return [
        f"method={method}",
        *(f"{method}.{size}" for size in sizes),
        "train.learning_rate=2e-3",
        f"train.epochs={epochs}",
    ]


def losses(report):
    return [row["loss"] for row in report.history]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 6)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_whole_one_and_is_evaluated_and_exported(method, store, tmp_path):
    recipe = load_recipe("ave-small", overrides(method, 6))
    whole = train(store, recipe=recipe, out=tmp_path / "whole")
    assert losses(whole)[-1] < 0.7 * losses(whole)[0]
    # background alone is 62 %
    assert whole.best_score > 70
    train(store, recipe=load_recipe("ave-small", overrides(method, 3)), out=tmp_path / "run")
    resumed = train(store, recipe=recipe, out=tmp_path / "run", resume=True)
    assert losses(resumed) == losses(whole)
    assert (
        evaluate(tmp_path / "run", store=store, pictures=False).scores
        == evaluate(tmp_path / "whole", store=store, pictures=False).scores
    )
    report = export_run(tmp_path / "run", store=store, repeats=1)
    assert (report.folded, report.kept, report.method) == ({}, {}, method)
    trained = bind_task(recipe, store).build_model()
    trained.load_state_dict(load_checkpoint(tmp_path / "run" / "best.safetensors")[0])
    tokens = store.read([0, 1]).layers
    expected, exported = trained.eval()(tokens), load_exported(report.out)(tokens)
    for name, value in expected.items():
        torch.testing.assert_close(exported[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_head_accumulate_over_micro_batches(method, store):
    model = bind_task(load_recipe("ave-small", overrides(method, 1)), store).build_model().double()
    tokens = store.read([0, 1, 2]).layers

    def gradients(clips):
        features = [
            module({name: layer[clips] for name, layer in tokens.items()}) for module in (model.visual, model.audio)
        ]
        parameters = [*model.visual.parameters(), *model.audio.parameters()]
        return torch.autograd.grad(sum(x.square().sum() for x in features), parameters)

    parts = zip(*(gradients(slice(i, i + 1)) for i in range(3)), strict=True)
    for part, whole in zip(parts, gradients(slice(0, 3)), strict=True):
        torch.testing.assert_close(sum(part), whole, rtol=1e-10, atol=1e-10)
