"""Random weights from a seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mettle_cache.backbones import create_backbone


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "htsat"])
def test_a_seed_gives_the_same_bits_and_leaves_the_callers_state_alone(name):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    first = create_backbone(name, weights="random", seed=1)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    second = create_backbone(name, weights="random", seed=1)
    third = create_backbone(name, weights="random", seed=2)
    assert first.trunk.digest == second.trunk.digest != third.trunk.digest
    assert first.weights_source == "random, seed 1"


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256@64", "test_resnet", "vit_small_patch14_dinov2@28"])
def test_every_block_acts(name):
    """As timm initialises, residual branches start at zero and all blocks of a stage would give equal tokens."""
    backbone = create_backbone(name, weights="random")
    x = torch.randn((1, *backbone.segment_shape), generator=torch.Generator().manual_seed(0))
    tokens = list(backbone.forward_tokens(x).values())
    for before, after in pairwise(tokens):
        if before.shape == after.shape:
            assert (before - after).std() > 0.05 * after.std()
    assert all(token.isfinite().all() and 1e-3 < token.std() < 100 for token in tokens)
