"""The tokens are the model's own: its features follow from the last block's, and a CNN's are timm's feature maps."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from mettle_cache.backbones import create_backbone, layer_table
from mettle_cache.backbones.timm_taps import find_taps, patch_size
from mettle_cache.errors import UsageError
from mettle_cache.preprocessing import Preprocessing


def picture(backbone, count=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, *backbone.segment_shape), generator=generator)


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_vit2",
        "test_vit3",
        "vit_tiny_patch16_224@64",
        "deit_tiny_distilled_patch16_224@64",
        "vit_small_patch14_reg4_dinov2@56",
        "swinv2_tiny_window8_256",
        "swinv2_cr_tiny_224@64",
    ],
)
def test_the_last_block_becomes_the_models_own_features(name):
    backbone = create_backbone(name, weights="random", seed=3)
    network = backbone.trunk.network
    x = picture(backbone)
    tokens = backbone.forward_tokens(x)
    last = tokens[backbone.layers[-1].name]
    with torch.inference_mode():
        features = network.forward_features(x)
        if features.ndim == 4:
            features = features.flatten(1, 2) if features.shape[-1] == last.shape[-1] else features.flatten(2).mT
        norm = network.norm if isinstance(getattr(network, "norm", None), nn.Module) else nn.Identity()
        assert torch.equal(norm(last), features)


def test_a_block_is_tapped_before_the_next_merging():
    """Swin: merging the last block of a stage and running the next block by hand gives the next layer."""
    backbone = create_backbone("swinv2_tiny_window8_256", weights="random", seed=3)
    tokens = backbone.forward_tokens(picture(backbone))
    stage = backbone.trunk.network.layers[1]
    with torch.inference_mode():
        merged = stage.downsample(tokens["visual/s1b02"].unflatten(1, backbone.layers[1].grid))
        first = stage.blocks[0](merged)
    assert torch.equal(first.flatten(1, 2), tokens["visual/s2b01"])


def test_every_block_of_a_vit_follows_from_the_one_before():
    backbone = create_backbone("test_vit2", weights="random", seed=3)
    tokens = list(backbone.forward_tokens(picture(backbone)).values())
    blocks = backbone.trunk.network.blocks
    assert len(tokens) == len(blocks)
    with torch.inference_mode():
        for before, after, block in zip(tokens[:-1], tokens[1:], blocks[1:], strict=True):
            assert torch.equal(block(before), after)
            assert not torch.equal(before, after)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "resnet18", "densenet121", "regnetx_002"]
)
def test_the_maps_of_a_cnn_are_timms_features(name):
    backbone = create_backbone(f"{name}@96", weights="random", seed=2)
    oracle = timm.create_model(name, features_only=True).eval()
    state = backbone.trunk.network.state_dict()
    # timm's wrapper flattens the names of nested modules
    own = {key.replace(".", "_"): value for key, value in state.items()}
    oracle.load_state_dict({key: own[key.replace(".", "_")] for key in oracle.state_dict()})
    x = picture(backbone)
    with torch.inference_mode():
        maps = oracle(x)
    wanted = [features for features, stride in zip(maps, oracle.feature_info.reduction(), strict=True) if stride >= 4]
    tokens = backbone.forward_tokens(x)
    assert len(tokens) == len(wanted)
    for features, token, layer in zip(wanted, tokens.values(), backbone.layers, strict=True):
        if features.shape[1] != layer.width:  # a ConvNeXt in channels-last form
            features = features.permute(0, 3, 1, 2)
        assert layer.grid == tuple(features.shape[2:])
        assert torch.equal(features.flatten(2).mT, token)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UsageError, match=r"'tiny' \(Linear\) is no Swin, ViT or feature-pyramid CNN"):
        find_taps(nn.Linear(1, 1), "tiny")


def test_a_size_that_the_network_cannot_take_is_refused():
    with pytest.raises(UsageError, match="does not take pictures of 16 x 16"):
        layer_table("vgg11@16")


def test_the_patch_of_a_network():
    assert patch_size(nn.Linear(1, 1)) == (1, 1)


@pytest.mark.parametrize("name", ["test_vit", "swinv2_tiny_window8_256"])
def test_the_final_norm_can_be_part_of_the_last_layer_alone(name):
    plain = create_backbone(name, weights="random", seed=3)
    normed = create_backbone(name, weights="random", seed=3, preprocessing=Preprocessing(final_norm=True))
    x = picture(plain)
    before, after = plain.forward_tokens(x), normed.forward_tokens(x)
    *earlier, last = (layer.name for layer in plain.layers)
    assert all(torch.equal(before[layer], after[layer]) for layer in earlier)
    with torch.inference_mode():
        assert torch.equal(plain.trunk.network.norm(before[last]), after[last])
    assert not torch.equal(before[last], after[last])
    assert plain.fingerprint() != normed.fingerprint()
