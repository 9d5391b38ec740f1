"""A timm network as a frozen backbone: its tokens are timm's own, and its fingerprint says what made them."""

from __future__ import annotations

import pytest
import timm
import torch

from mettle_cache.backbones import create_backbone
from mettle_cache.errors import UsageError


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_random_weights_are_called_random_whatever_the_seed(seed: int, modality: str) -> None:
    """No row of a paper may stand beside such a store as if its weights were the published ones."""
    backbone = create_backbone("test_vit", weights="random", seed=seed, modality=modality)
    fingerprint = backbone.fingerprint()
    weights = fingerprint["weights"]
    assert isinstance(weights, dict)
    assert (weights["kind"], weights["seed"]) == ("random", seed)
    assert (fingerprint["modality"], fingerprint["architecture"]) == (modality, "test_vit")


def test_tokens_are_what_timm_gives_of_each_block() -> None:
    backbone = create_backbone("test_vit@64", weights="random", seed=1)
    assert backbone.segment_shape == (3, 64, 64)
    network = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    network.load_state_dict(backbone.trunk.network.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = network.forward_intermediates(x, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True)
    expected = [torch.cat((class_token, patches), dim=1) for patches, class_token in blocks]
    tokens = backbone.forward_tokens(x)
    assert list(tokens) == [f"visual/s1b{block:02d}" for block in range(1, len(expected) + 1)]
    for ours, theirs in zip(tokens.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_size_that_the_patches_do_not_fit_is_refused_with_the_nearest_below() -> None:
    with pytest.raises(UsageError, match="cannot read 70 pixels: they are no multiple of its patch of 16") as caught:
        create_backbone("test_vit@70", weights="random")
    assert caught.value.hint == "use test_vit@64"
