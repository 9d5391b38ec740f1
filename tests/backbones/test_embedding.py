"""The patch embedding as a layer: what enters the first block, where it is asked for."""

import pytest
import torch

from mettle_cache.backbones import create_backbone, layer_table
from mettle_cache.backbones.protocol import BackboneRequest
from mettle_cache.backbones.published import HTSAT, RESNEXT101, SWINV2_L, VIT_L16

VIT, SWIN = "test_vit@64", "swinv2_tiny_window8_256@64"


def batch(backbone, count=2):
    return torch.randn(count, *backbone.segment_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [VIT, SWIN])
def test_it_is_timm_s_and_gives_the_first_block_s_output(name):
    backbone = create_backbone(name, weights="random", seed=2, embedding=True)
    network, x = backbone.trunk.network, batch(backbone)
    tokens = backbone.forward_tokens(x)
    embedded = tokens["visual/s1b00"]
    with torch.no_grad():
        if name == VIT:
            expected = network.norm_pre(network._pos_embed(network.patch_embed(x)))
            first = network.blocks[0](embedded.clone())
        else:
            expected = network.patch_embed(x).flatten(1, 2)
            first = network.layers[0].blocks[0](embedded.clone().unflatten(1, (16, 16))).flatten(1, 2)
    assert torch.equal(embedded, expected)
    torch.testing.assert_close(first, tokens["visual/s1b01"], rtol=0, atol=1e-5)
    assert list(tokens)[:2] == ["visual/s1b00", "visual/s1b01"]
    assert backbone.layers == layer_table(name, embedding=True)


def test_htsat_s_is_its_patches_after_their_norm(tmp_path, originals):
    weights = originals.write(tmp_path / "small.ckpt", originals.state())
    backbone = create_backbone("htsat", weights=weights, embedding=True)
    tokens = backbone.forward_tokens(batch(backbone, 1))
    embedded, network = tokens["audio/s1b00"], backbone.trunk.network
    assert embedded.shape == tokens["audio/s1b01"].shape == (1, 4096, 24)
    with torch.no_grad():
        first = network.blocks[0](embedded.clone().unflatten(1, (64, 64))).flatten(1, 2)
    torch.testing.assert_close(first, tokens["audio/s1b01"], rtol=0, atol=1e-5)
    assert [layer.name for layer in backbone.layers[:2]] == ["audio/s1b00", "audio/s1b01"]


def test_shared_sound_has_it_too():
    audio = create_backbone(VIT, weights="random", embedding=True).shared_audio()
    assert audio.layers[0].name == "audio/s1b00"
    assert audio.forward_tokens(batch(audio, 1))["audio/s1b00"].shape == (1, 17, 64)


def test_unasked_nothing_changes():
    without = create_backbone(VIT, weights="random", seed=2)
    asked = create_backbone(VIT, weights="random", seed=2, embedding=True)
    assert without.layers == asked.layers[1:]
    assert asked.fingerprint() == {
        **without.fingerprint(),
        "layers": [asked.layers[0].to_json(), *without.fingerprint()["layers"]],
    }
    x = batch(without)
    theirs = asked.forward_tokens(x)
    assert all(torch.equal(tokens, theirs[name]) for name, tokens in without.forward_tokens(x).items())
    assert asked.late_bundle().block == without.late_bundle().block


@pytest.mark.parametrize("family", [SWINV2_L, VIT_L16, HTSAT])
def test_published_tables_have_it_first(family):
    requests = [BackboneRequest(name=family.name, embedding=embedding) for embedding in (False, True)]
    plain, asked = map(family.layers, requests)
    first = plain[0]
    assert asked[1:] == plain
    assert (asked[0].name, asked[0].grid, asked[0].tokens, asked[0].width) == (
        f"{first.modality}/s1b00",
        first.grid,
        first.tokens,
        first.width,
    )
    assert family.builder.layers(BackboneRequest(name=family.name, embedding=True)) == asked


@pytest.mark.parametrize("name", ["resnext101", "test_efficientnet@64", "eva02_tiny_patch14_224@28"])
def test_where_there_is_none_the_table_is_as_before(name):
    assert layer_table(name, embedding=True) == layer_table(name)
    assert not RESNEXT101.embeds
