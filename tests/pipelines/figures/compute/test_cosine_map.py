"""Mean cosines between the meta-tokens of layers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.analysis.layer_tokens import LayerWiseMethod
from mettle_cache.pipelines.figures.compute.cosine_map import run_cosine_maps, run_fusion_weights
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent


def test_a_map_has_every_meta_token_of_every_layer(trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "lcd", store=tiny_ave)
    group = RunGroup([trained], "test", None, Silent())
    visual, audio = run_cosine_maps(group, 0)
    assert (visual.title, visual.names) == ("visual", ("s1b01", "s1b01", "s2b01", "s2b01", "s2b02", "s2b02"))
    assert audio.names == ("s1b01", "s2b01")
    tokens = tiny_ave.read([tiny_ave.samples["clip"][row].as_py() for row in group.split.rows]).layers
    with torch.no_grad():
        separate = trained.run.model.visual.separate(tokens).flatten(0, 1)
    expected = cosine_similarity(separate[:, :, None], separate[:, None], dim=-1).mean(0)
    np.testing.assert_allclose(visual.cosines, expected, atol=1e-5)


def test_a_head_with_one_token_has_no_map(linear_run, tiny_ave):
    trained = TrainedRun.load(linear_run, "linear", store=tiny_ave)
    with pytest.raises(UsageError, match="linear: there are no tokens of several layers"):
        run_cosine_maps(RunGroup([trained], "test", None, Silent()), 0)


class ToyFusion(torch.nn.Module):
    """Two tokens of every layer of a modality, the mean token and its negative, and made-up weights."""

    def __init__(self, layers):
        super().__init__()
        self.layers = tuple(layer for layer in layers if layer.name != "visual/s1b01")

    def layer_tokens(self, tokens):
        layered = {}
        for modality in ("visual", "audio"):
            names = [layer.name for layer in self.layers if layer.modality == modality]
            means = torch.stack([tokens[name].floats().mean(-2)[..., :8] for name in names], 2)
            layered[modality] = torch.stack([means, -means], 3)
        return layered

    def fusion_weights(self, layered):
        return {name: tensor.sum(-1).softmax(2) for name, tensor in layered.items()}


def test_methods_that_weigh_their_layers_have_maps_and_weights(linear_run, trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "toy", store=tiny_ave)
    method = ToyFusion(tiny_ave.layers)
    assert isinstance(method, LayerWiseMethod)
    trained.run.model.method = method
    group = RunGroup([trained], "test", None, Silent())
    visual, audio = run_cosine_maps(group, 0)
    assert visual.names == ("s2b01", "s2b01", "s2b02", "s2b02")
    assert audio.names == ("s1b01", "s1b01", "s2b01", "s2b01")
    # a token and its negative
    assert [visual.cosines[0, 1], audio.cosines[2, 3]] == pytest.approx([-1, -1])
    fusions = run_fusion_weights(group, 0)
    assert [(one.title, one.names, one.weights.shape) for one in fusions] == [
        ("visual", ("s2b01", "s2b02"), (90, 2)),
        ("audio", ("s1b01", "s2b01"), (90, 2)),
    ]
    tokens = tiny_ave.read([tiny_ave.samples["clip"][row].as_py() for row in group.split.rows]).layers
    expected = method.fusion_weights(method.layer_tokens(tokens))["audio"].mean(-1).flatten(0, 1)
    np.testing.assert_allclose(fusions[1].weights, expected, rtol=1e-5)
    np.testing.assert_allclose(fusions[0].weights.sum(1), 1, rtol=1e-5)
    plain = RunGroup([TrainedRun.load(linear_run, "linear", store=tiny_ave)], "test", None, Silent())
    with pytest.raises(UsageError, match="linear: the method gives its layers no weights"):
        run_fusion_weights(plain, 0)
