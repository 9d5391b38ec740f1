"""Files of weights for timm networks."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from mettle_cache.backbones import create_backbone
from mettle_cache.errors import UsageError, WeightsError


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
