"""Pooled grids against a mean and a maximum over each cell, taken by hand."""

import pytest
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import PooledLayer, pool_tokens, pooled_tokens
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
