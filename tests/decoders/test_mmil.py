import math

import numpy as np
import pytest
import torch

from mettle_cache.decoders.han import HAN, HANOptions
from mettle_cache.decoders.mmil import MMILPooling, MotionFusion, Smoothing, weak_losses
from mettle_cache.decoders.mmpyr import MMPyramid, MMPyrOptions
from mettle_cache.errors import UsageError
from tests.decoders.attention import array, linear, sigmoid, softmax


def test_pooling_equals_the_specification_written_out_in_numpy():
    torch.manual_seed(0)
    pooling = MMILPooling(6, 4).double()
    audio, visual = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    got = {name: array(value) for name, value in pooling(audio, visual).items()}
    for b in range(3):
        x = np.stack([array(audio[b]), array(visual[b])], axis=1)  # [T, 2, h], audio first
        p = sigmoid(linear(x, pooling.category))
        w_t, w_m = softmax(linear(x, pooling.segment_weight), 0), softmax(linear(x, pooling.modality_weight), 1)
        np.testing.assert_allclose(got["audio"][b], p[:, 0], atol=1e-12)
        np.testing.assert_allclose(got["visual"][b], p[:, 1], atol=1e-12)
        np.testing.assert_allclose(got["video"][b], (w_t * w_m * p).sum((0, 1)), atol=1e-12)
        np.testing.assert_allclose(got["video_audio"][b], (w_t * p)[:, 0].sum(0), atol=1e-12)
        np.testing.assert_allclose(got["video_visual"][b], (w_t * p)[:, 1].sum(0), atol=1e-12)


def outputs(video, audio, visual):
    return {name: torch.tensor([values]) for name, values in zip(NAMES, (video, audio, visual), strict=True)}


NAMES = ("video", "video_audio", "video_visual")


def cross_entropy(p, y):
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def test_losses_of_a_worked_case_with_each_modality_s_own_smoothing():
    given = outputs([0.8, 0.3], [0.6, 0.2], [0.7, 0.1])
    terms = weak_losses(given, torch.tensor([[1, 0]]), Smoothing(audio=0.0, visual=0.1))
    assert terms["video"].item() == pytest.approx((cross_entropy(0.8, 1) + cross_entropy(0.3, 0)) / 2, rel=1e-5)
    assert terms["audio"].item() == pytest.approx((cross_entropy(0.6, 1) + cross_entropy(0.2, 0)) / 2, rel=1e-5)
    # 0.9 y + 0.05
    assert terms["visual"].item() == pytest.approx((cross_entropy(0.7, 0.95) + cross_entropy(0.1, 0.05)) / 2, rel=1e-5)
    smoothed = weak_losses(given, torch.tensor([[1, 0]]), Smoothing(audio=1.0, visual=0.0))
    assert smoothed["audio"].item() == pytest.approx((cross_entropy(0.6, 0.5) + cross_entropy(0.2, 0.5)) / 2, rel=1e-5)


def test_probabilities_beyond_both_ends_have_finite_losses():
    """The fused probability can exceed 1: its weights over time and over modalities are normalised apart."""
    terms = weak_losses(outputs([1.7, 0.0], [1.0, 0.0], [1.0, 0.0]), torch.tensor([[0, 1]]), Smoothing())
    assert terms["video"].item() == pytest.approx(-math.log(1e-7), rel=0.02)
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize(
    ("head", "options"), [(MMPyramid, MMPyrOptions(heads=8)), (HAN, HANOptions(heads=8))], ids=["mmpyr", "han"]
)
def test_heads_that_do_not_divide_the_width_are_refused(head, options):
    with pytest.raises(
        UsageError, match=r"8 attention heads do not divide the width of the meta-tokens, 12\n.*lcd.dim"
    ):
        head(12, 4, options=options)


def test_motion_joins_the_visual_features():
    torch.manual_seed(0)
    fusion = MotionFusion(6).double()
    visual, motion = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 5, 512, dtype=torch.float64)
    joined = np.concatenate([array(visual), linear(array(motion), fusion.motion)], -1)
    np.testing.assert_allclose(array(fusion(visual, motion)), linear(joined, fusion.fuse), atol=1e-12)
