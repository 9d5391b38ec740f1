"""What bfloat16 autocast does to a step, which is why ``precision = "auto"`` is float32 on every device."""

from dataclasses import replace

import pytest
import torch

from mettle_cache.methods.registry import METHODS
from tests.pipelines.train import test_kept_companions
from tests.pipelines.train.test_host_reads import CPU, prepare

# products outside the pooling and the decoders, which keep float32 under autocast
TOUCHED = ("linear", "lst", "sherl", "unipt")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return test_kept_companions.write_store(tmp_path_factory.mktemp("precision") / "ave.zarr")


def gradients(run, batch, precision):
    """All gradients of a batch's loss in one vector, with dropout off."""
    run.options = replace(run.options, precision=precision)
    run.model.eval().zero_grad()
    with run._precision():
        outputs = run.model(batch.tokens.layers, **run._inputs(batch))
    sum(run.task.loss(run.model, outputs, run.task.targets(batch.rows)).values()).backward()
    given = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten() for gradient in given])


@pytest.mark.parametrize("method", METHODS.names())
def test_autocast_moves_the_gradients_of_some_methods_and_leaves_the_others_alone(store, method):
    run, batch = prepare({"ave": store}, ("ave", "ave-small", [f"method={method}"]), CPU)
    exact = gradients(run, batch, "float32")
    assert torch.equal(gradients(run, batch, "auto"), exact)
    error = ((gradients(run, batch, "bfloat16") - exact).norm() / exact.norm()).item()
    if method in TOUCHED:
        assert 0.005 < error < 0.2
    else:
        assert error == 0
