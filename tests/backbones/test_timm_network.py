"""timm networks: weights from files, blocks and grids, and a ViT that reads any grid."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mettle_cache.backbones import create_backbone, layer_table
from mettle_cache.backbones.timm_network import find_taps, patch_size, read_any_grid
from mettle_cache.errors import UsageError, WeightsError
from mettle_cache.preprocessing import Preprocessing


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("classes", [0, 7, None])
def test_a_file_loads_whatever_its_classifier(name, classes, tmp_path):
    arguments = {} if classes is None else {"num_classes": classes}
    model = timm.create_model(name, **arguments).eval()
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    backbone = create_backbone(name, weights=path)
    own = backbone.trunk.network.state_dict()
    assert all(torch.equal(own[key], model.state_dict()[key]) for key in own)
    assert backbone.weights_source == f"file {path}"
    assert backbone.fingerprint()["weights"] == {"kind": "pretrained", "digest": backbone.trunk.digest}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {"model_state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}}, "its 'model_state_dict'"),
        (lambda s: {"module": {f"model.{k}": v for k, v in s.items()}}, "its 'module', names without 'model.'"),
        (
            lambda s: {"teacher": {f"backbone.{k}": v for k, v in s.items()} | {"head.mlp.weight": torch.ones(1)}},
            "its 'teacher', names without 'backbone.', 1 other tensors left out",
        ),
    ],
)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_what_a_training_framework_wraps_around_comes_off(name, wrap, said, tmp_path):
    state = timm.create_model(name).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    backbone = create_backbone(name, weights=tmp_path / "w.pth")
    own = backbone.trunk.network.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert backbone.weights_source == f"file {tmp_path / 'w.pth'} ({said})"


def test_loading_a_file_leaves_the_callers_random_state_alone(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    create_backbone("test_vit", weights=path)
    assert torch.equal(torch.rand(4), expected)


def test_the_same_tensors_have_the_same_digest_in_any_file(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pth")
    first, second = (create_backbone("test_vit", weights=tmp_path / name) for name in ("a.safetensors", "b.pth"))
    assert first.fingerprint() == second.fingerprint()


def test_half_precision_files_give_float32_networks(tmp_path):
    state = {key: value.half() for key, value in timm.create_model("test_vit").state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    network = create_backbone("test_vit", weights=tmp_path / "half.safetensors").trunk.network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_position_embeddings_of_another_size_are_resampled(tmp_path):
    """As timm does it when a network is built for another size."""
    model = timm.create_model("test_vit", img_size=160).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = create_backbone("test_vit@96", weights=tmp_path / "weights.safetensors")
    model.set_input_size(96)
    x = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.forward_features(x)
        last = backbone.trunk.network.norm(backbone.forward_tokens(x)["visual/s1b06"])
    assert backbone.layers[0].grid == (6, 6)
    assert torch.allclose(last, features, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if "blocks.3" not in k}, r"12 missing: blocks\.3\.norm1"),
        (lambda state: state | {"adapter.weight": torch.zeros(1)}, r"1 unexpected: adapter\.weight"),
        (lambda state: state | {"norm.bias": torch.zeros(3)}, r"norm\.bias \(3,\) where \(64,\) is wanted"),
        (lambda _state: {"x": torch.zeros(1)}, r"missing: .*, \.\.\.; 1 unexpected: x"),
        (lambda _state: timm.create_model("test_resnet").state_dict(), "it is not for 'test_vit'"),
    ],
)
def test_a_file_of_another_architecture_is_refused(spoil, message, tmp_path):
    path = tmp_path / "wrong.safetensors"
    save_file(spoil(timm.create_model("test_vit").state_dict()), path)
    with pytest.raises(WeightsError, match=message):
        create_backbone("test_vit", weights=path)


def test_the_original_swin_files_load_by_timms_own_conversion(tmp_path):
    """Microsoft's layout: ``model`` around it, merging at the end of the stage before, the head without ``fc``."""
    model = timm.create_model("swinv2_tiny_window8_256", num_classes=5)
    original = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if "downsample" in key:
            parts[1] = str(int(parts[1]) - 1)
        original[".".join(part for part in parts if part != "fc" or parts[0] != "head")] = value
    original["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    torch.save({"model": original}, tmp_path / "original.pth")
    backbone = create_backbone("swinv2_tiny_window8_256", weights=tmp_path / "original.pth")
    own = backbone.trunk.network.state_dict()
    assert all(torch.equal(own[key], model.state_dict()[key]) for key in own)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224@20", "swinv2_tiny_window8_256@18"])
def test_sizes_that_do_not_fill_patches_are_refused(name):
    with pytest.raises(UsageError, match="no multiple of its patch"):
        create_backbone(name, weights="random")


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


def test_on_its_own_grid_it_is_the_networks_forward():
    network = create_backbone("test_vit", weights="random", seed=1).trunk.network
    x = torch.randn((2, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(read_any_grid(network)(x), network.forward_features(x), atol=1e-6)


def test_position_rows_are_interpolated_along_the_token_axis():
    """Against numpy: half-pixel linear interpolation of all 101 rows, the class token's included, to 49."""
    network = create_backbone("test_vit", weights="random", seed=1).trunk.network
    rows = network.pos_embed[0].numpy().astype(np.float64)
    at = (np.arange(49) + 0.5) * len(rows) / 49 - 0.5
    expected = np.stack([np.interp(at, np.arange(len(rows)), column) for column in rows.T], axis=1)
    seen = []
    handle = network.blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = torch.randn((1, 3, 102, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        read_any_grid(network)(x)
        handle.remove()
        # the last 6 rows of pixels do not fill a patch
        patches = network.patch_embed.proj(x[:, :, :96]).flatten(2).mT
        without = torch.cat((network.cls_token, patches), dim=1)
    assert seen[0].shape == (1, 49, 64)
    assert np.allclose((seen[0] - without)[0].numpy(), expected, atol=1e-5)
