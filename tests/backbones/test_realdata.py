"""Really pretrained weights, against the sanity numbers that came with them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from mettle_cache.backbones import create_backbone, parse_backbone

pytestmark = pytest.mark.realdata


def test_dinov2_at_224_from_weights_stored_for_518(realdata):
    path = realdata / "weights" / "vit_small_patch14_dinov2_saliency.safetensors"
    choice = parse_backbone(f"vit_small_patch14_dinov2@224={path}")
    backbone = create_backbone(choice.name, weights=choice.weights)
    x = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)
    last = backbone.forward_tokens(x)["visual/s1b12"]
    features = backbone.trunk.network.norm(last)
    assert features.shape == (1, 257, 384)
    assert float(features.abs().mean()) == pytest.approx(2.0727, abs=1e-4)
    assert features.flatten()[:3].tolist() == pytest.approx([0.9087, 0.5231, 2.4356], abs=2e-4)


def test_efficientnet_sees_a_hen(realdata):
    path = realdata / "weights" / "tf_efficientnet_lite0.safetensors"
    backbone = create_backbone("tf_efficientnet_lite0", weights=path)
    picture = np.asarray(Image.open(realdata / "assets" / "pictures" / "chicken_3.webp").convert("RGB"))
    x = backbone.preprocess([picture], 1)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(load_file(path))
    with torch.inference_mode():
        chances = whole(x).softmax(dim=1)
        last = backbone.forward_tokens(x)["visual/s4b01"].mT.unflatten(2, backbone.layers[-1].grid)
        assert torch.allclose(whole.forward_head(whole.bn2(whole.conv_head(last))).softmax(dim=1), chances, atol=1e-6)
    assert int(chances.argmax()) == 8
    assert float(chances.max()) == pytest.approx(0.894, abs=0.02)
