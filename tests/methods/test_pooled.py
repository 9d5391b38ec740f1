"""Pooled grids against a mean and a maximum over each cell, taken by hand."""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import PooledLayer, common_grid, pool_tokens, pooled_tokens
from mettle_cache.tokens import FLOATS, LayerTokens

LAYER = LayerSpec(modality="visual", stage=1, block=2, grid=(4, 6), tokens=25, width=3)


def tokens_of(layer, frames=(2, 9)):
    floats = torch.randn(*frames, layer.tokens, layer.width, dtype=torch.float64)
    return LayerTokens(floats, FLOATS)


@pytest.mark.parametrize(("how", "reduce"), [("mean", torch.mean), ("max", torch.amax)])
def test_cells_are_reduced_without_class_tokens(how, reduce):
    tokens = tokens_of(LAYER)
    pooled = PooledLayer(layer=LAYER, grid=(2, 3), how=how)
    cells = tokens.codes[..., 1:, :].reshape(2, 9, 2, 2, 3, 2, 3)
    expected = reduce(cells, dim=(3, 5)).reshape(2, 9, 6, 3)
    torch.testing.assert_close(pool_tokens(tokens, pooled, torch.float64), expected, rtol=0, atol=1e-15)


def test_what_a_loader_brought_is_taken():
    pooled = PooledLayer(layer=LAYER, grid=(2, 3), how="mean")
    brought = LayerTokens(torch.ones(2, 9, 6, 3), FLOATS)
    tokens = {"visual/s1b02": tokens_of(LAYER), "mean/visual/s1b02": brought}
    assert pooled.name == "mean/visual/s1b02"
    assert torch.equal(pooled_tokens(tokens, pooled), brought.codes)


def layer(stage, grid, *, class_tokens=0):
    tokens = grid[0] * grid[1] + class_tokens
    return LayerSpec(modality="visual", stage=stage, block=1, grid=grid, tokens=tokens, width=4)


def test_layers_meet_on_the_last_one_s_grid():
    assert common_grid([layer(1, (4, 6)), layer(2, (3, 3)), layer(3, (2, 3))]) == (2, 3)
    assert common_grid([layer(1, (2, 3), class_tokens=1), layer(2, (2, 3), class_tokens=1)]) == (2, 3)
    assert common_grid([layer(1, (4, 6), class_tokens=1), layer(2, (2, 3))]) == (2, 3)


@pytest.mark.parametrize(
    "layers",
    [
        [layer(1, (1, 3)), layer(2, (2, 3))],
        [layer(1, (4, 6), class_tokens=1), layer(2, (2, 3), class_tokens=1)],
        [layer(1, (2, 3), class_tokens=1), layer(2, (2, 3))],
    ],
    ids=["coarser", "class tokens on the last grid", "class tokens on one of two alike"],
)
def test_layers_that_cannot_meet(layers):
    with pytest.raises(UsageError, match=r"the tokens of visual/s1b01 cannot meet those of visual/s2b01, \d on a grid"):
        common_grid(layers)
