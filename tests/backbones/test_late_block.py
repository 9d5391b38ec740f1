"""Replayed from the tokens of the block before, the last block gives what the whole network gives."""

import pytest
import torch

from mettle_cache.backbones import create_backbone, layer_table
from mettle_cache.backbones.late_block import late_bundle
from mettle_cache.backbones.timm_network import build_meta, find_taps
from mettle_cache.companions import CompanionFile, companion_bytes
from mettle_cache.errors import UsageError
from mettle_cache.methods.late_block import FrozenLateBlock

KEY = "0" * 32
VIT, SWIN = "test_vit@64", "swinv2_tiny_window8_256@64"


def replay(backbone, folder):
    """The frozen block of a backbone, by way of a file."""
    bundle = backbone.late_bundle()
    path = folder / "late.safetensors"
    path.write_bytes(companion_bytes(bundle.tensors, bundle.block.describe(KEY)))
    return FrozenLateBlock(CompanionFile(path, KEY), path.name)


def features(backbone, x):
    """The network's own output after its final norm, ``[F, N, D]``."""
    network = backbone.trunk.network
    with torch.inference_mode():
        if backbone.name == "htsat":
            output = network.swin.norm(network.forward_features(x.repeat(1, backbone.repeats)))
        else:
            output = network.forward_features(x)
    return output.flatten(1, -2)


@pytest.fixture(params=["vit", "swin", "htsat"])
def backbone(request, tmp_path, originals):
    if request.param == "htsat":
        return create_backbone("htsat", weights=originals.write(tmp_path / "small.ckpt", originals.state()))
    return create_backbone(VIT if request.param == "vit" else SWIN, weights="random", seed=3)


def test_the_replay_is_the_network_to_the_last_bit(backbone, tmp_path):
    late = replay(backbone, tmp_path)
    x = torch.randn(2, *backbone.segment_shape, generator=torch.Generator().manual_seed(0))
    tokens = backbone.forward_tokens(x)
    assert late.block.layer == backbone.layers[-1]
    entering = tokens[late.block.before.name].clone()
    expected = features(backbone, x)
    with torch.no_grad():
        assert torch.equal(late(entering), expected)
        # as a float16 store has them: rounding at 2^-11, carried through the block
        stored = late(entering.half().float())
    assert (stored - expected).abs().max() <= 4e-3 * expected.abs().max()
    assert not torch.equal(stored, expected)


def test_gradients_go_through_the_block_and_no_further(backbone, tmp_path):
    late = replay(backbone, tmp_path)
    x = torch.randn(1, late.block.layer.tokens, late.block.layer.width, requires_grad=True)
    late(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert not list(late.parameters())
    assert not any(buffer.requires_grad for buffer in late.buffers())


def test_the_shared_mode_replays_the_same_weights(tmp_path):
    visual = create_backbone(VIT, weights="random", seed=3)
    ours, theirs = visual.late_bundle(), visual.shared_audio().late_bundle()
    assert (ours.block.layer.modality, theirs.block.layer.modality) == ("visual", "audio")
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


def test_layer_scales_are_kept():
    tensors = create_backbone("vit_small_patch14_dinov2@28", weights="random").late_bundle().tensors
    assert tensors["scale1"].shape == tensors["scale2"].shape == (384,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_efficientnet@64", r"test_efficientnet@64 \(\w+\) has no attention block to replay"),
        ("swinv2_tiny_window8_256@512", "8 x 8 and shifted, its last grid is 16 x 16, so the block cannot be replayed"),
        ("vit_base_patch32_clip_quickgelu_224@32", "its last block is no plain attention block"),
        ("eva02_tiny_patch14_224@28", r"\(EvaBlock\) has no attention block to replay"),
    ],
)
def test_what_cannot_be_replayed_is_said(name, message):
    architecture, _, size = name.partition("@")
    network = build_meta(architecture, int(size))
    with pytest.raises(UsageError, match=message):
        late_bundle(find_taps(network, name).modules[-1], None, layer_table(name), name)


def test_one_layer_has_none_before_it():
    network = build_meta("test_vit", 64)
    with pytest.raises(UsageError, match="test_vit has but one layer, so nothing enters a last block"):
        late_bundle(network.blocks[-1], network.norm, layer_table("test_vit@64")[-1:], "test_vit")
