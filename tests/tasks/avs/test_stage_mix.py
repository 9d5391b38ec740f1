from dataclasses import replace

import torch
from torch import nn

from mettle_cache.tasks.avs.stage_mix import MixedTokens, StageMix, stage_layers
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.tasks.avs.test_task import VISUAL, layer


def test_the_layers_of_a_level_have_its_grid_and_width():
    early, other = replace(VISUAL[0], block=0), layer("visual", 2, 2, 16)
    layers = (early, VISUAL[0], other, *VISUAL[1:])
    assert stage_layers(layers, VISUAL) == ((early, VISUAL[0]), (VISUAL[1],), (VISUAL[2],), (VISUAL[3],))


def test_weights_start_as_a_mean():
    mix = StageMix([VISUAL[:1], VISUAL[1:3]]).double()
    tokens = {spec.name: LayerTokens(torch.zeros(1, spec.tokens, spec.width), FLOATS) for spec in VISUAL}
    assert [[weight.item() for weight in stage.weights] for stage in mix(tokens)] == [[1.0], [0.5, 0.5]]


def test_a_linear_without_bias():
    tokens = LayerTokens(torch.randn(2, 3, 4, dtype=torch.float64), FLOATS)
    linear = nn.Linear(4, 5, bias=False).double()
    mixed = MixedTokens([tokens, tokens], [torch.tensor(0.25).double(), torch.tensor(0.5).double()])
    torch.testing.assert_close(mixed.project(linear), 0.75 * linear(tokens.codes))
