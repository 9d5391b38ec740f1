"""The paper's backbones at their full size."""

from __future__ import annotations

import pytest
import torch

from mettle_cache.backbones import create_backbone, shared_audio

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["swinv2_l", "vit_l16", "resnext101"])
def test_the_published_backbones_run_whole(name):
    backbone = create_backbone(name, weights="random", seed=1)
    x = torch.randn((2, *backbone.segment_shape), generator=torch.Generator().manual_seed(0))
    tokens = backbone.forward_tokens(x)
    assert {layer.name: (2, layer.tokens, layer.width) for layer in backbone.layers} == {
        layer: tuple(token.shape) for layer, token in tokens.items()
    }
    network, last = backbone.trunk.network, tokens[backbone.layers[-1].name]
    with torch.inference_mode():
        features = network.forward_features(x)
        if name == "resnext101":
            assert torch.equal(features.flatten(2).mT, last)
        else:
            assert torch.equal(network.norm(last), features.flatten(1, -2))
    again = backbone.forward_tokens(x)
    assert all(torch.equal(tokens[layer], again[layer]) for layer in tokens)
    audio = shared_audio(backbone)
    heard = audio.forward_tokens(torch.zeros(1, *audio.segment_shape))
    assert {layer.name: (1, layer.tokens, layer.width) for layer in audio.layers} == {
        layer: tuple(token.shape) for layer, token in heard.items()
    }
