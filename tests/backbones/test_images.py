"""Pictures to tensors, against torchvision's own resize of float tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from mettle_cache.backbones import create_backbone
from mettle_cache.backbones.images import ImageTransform
from mettle_cache.errors import MediaError

PEERS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_steps_are_those_of_the_peers(frames, antialias, interpolation):
    transform = ImageTransform(size=(48, 48), interpolation=interpolation, antialias=antialias, **PEERS)
    result = transform(frames, 3)
    for picture, tensor in zip(frames, result, strict=True):
        scaled = torch.from_numpy(picture).permute(2, 0, 1).contiguous().float() / 255
        resized = vision.resize(scaled, [48, 48], InterpolationMode(interpolation), antialias=antialias)
        assert torch.allclose(tensor, vision.normalize(resized, **PEERS), atol=2e-5)


def test_overshoot_is_not_clamped(frames):
    plain = ImageTransform(size=(192, 192), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))(frames, 3)
    assert plain.max() > 1
    assert plain.min() < 0


def test_the_same_pictures_give_the_same_bits_whatever_their_memory(frames):
    transform = ImageTransform(size=(48, 48), interpolation="bicubic", **PEERS)
    flipped = [np.ascontiguousarray(picture[::-1])[::-1] for picture in frames]
    read_only = [picture.copy() for picture in frames]
    for picture in read_only:
        picture.flags.writeable = False
    assert torch.equal(transform(frames, 3), transform(flipped, 3))
    assert torch.equal(transform(frames, 3), transform(read_only, 3))


@pytest.mark.parametrize(
    ("name", "size", "mean", "std", "interpolation"),
    [
        ("test_vit", 160, (0.5,) * 3, (0.5,) * 3, "bicubic"),
        ("test_resnet", 160, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        ("test_efficientnet@64", 64, PEERS["mean"], PEERS["std"], "bicubic"),
    ],
)
def test_other_models_follow_their_own_pretrained_cfg(name, size, mean, std, interpolation):
    backbone = create_backbone(name, weights="random")
    assert backbone.segment_shape == (3, size, size)
    described = backbone.fingerprint()["preprocessing"]
    assert described == {
        "kind": "picture",
        "resize": "both sides",
        "size": [size, size],
        "mean": list(mean),
        "std": list(std),
        "interpolation": interpolation,
        "antialias": False,
    }


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ([np.zeros((4, 4, 3), np.uint8)], "2 segments needs 2 pictures, not 1"),
        ([np.zeros((4, 4, 3), np.float32)] * 2, "picture 0 is float32"),
        ([np.zeros((4, 4), np.uint8)] * 2, "not RGB uint8"),
        ([np.zeros((4, 4, 4), np.uint8)] * 2, "not RGB uint8"),
        ([np.zeros((0, 4, 3), np.uint8)] * 2, "not RGB uint8"),
    ],
)
def test_what_is_no_clip_is_refused(media, message):
    transform = ImageTransform(size=(8, 8), interpolation="bicubic", **PEERS)
    with pytest.raises(MediaError, match=message):
        transform(media, 2)
