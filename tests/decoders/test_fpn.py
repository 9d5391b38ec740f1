"""The pyramid decoder: published counts, the residual's exact meaning, class tokens, refusals."""

import pytest
import torch
from torch.nn import functional

from mettle_cache.decoders.fpn import FPN, DilatedLateral, Fusion, OutputHead, ResidualUnit, to_map
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec

UNUSED = 1_180_160


def stage(number, side, width, extra=0):
    return LayerSpec(
        modality="visual", stage=number, block=1, grid=(side, side), tokens=side * side + extra, width=width
    )


SWIN = tuple(stage(n, side, width) for n, side, width in ((1, 48, 192), (2, 24, 384), (3, 12, 768), (4, 6, 1536)))
TINY = tuple(stage(n, side, 8 * n) for n, side in ((1, 8), (2, 4), (3, 2), (4, 1)))


class Dense:
    """A stage of floats."""

    def __init__(self, tokens):
        self.tokens = tokens

    def project(self, linear):
        return linear(self.tokens)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        linear, dilated = FPN(SWIN), FPN(SWIN, lateral="dilated")
    assert count(linear.fusions) + count(linear.output) + UNUSED == 9_773_249
    assert count(linear.fusions) + UNUSED == 9_441_280
    assert count(linear.output) == 331_969
    assert count(ResidualUnit(256)) == UNUSED
    assert count(linear.laterals) == 738_304
    assert count(dilated.laterals) == 1_094_656 + 9_441_280
    assert count(torch.nn.ModuleList(lateral.branches for lateral in dilated.laterals)) == 9_441_280


@pytest.mark.parametrize("lateral", ["linear", "dilated"])
def test_masks_come_out_at_the_size_of_the_masks(lateral):
    fpn = FPN(TINY, lateral=lateral, width=8)
    features = [Dense(torch.randn(2, spec.tokens, spec.width)) for spec in TINY]
    maps = fpn.maps(features)
    assert [tuple(m.shape) for m in maps] == [(2, 8, side, side) for side in (56, 28, 14, 7)]
    logits = fpn(features)
    assert logits.shape == (2, 224, 224)
    assert torch.equal(logits, fpn.decode(maps))


def test_frames_do_not_mix():
    fpn = FPN(TINY, width=8).double()
    features = [torch.randn(3, spec.tokens, spec.width, dtype=torch.float64) for spec in TINY]
    together = fpn([Dense(x) for x in features])
    for frame in range(3):
        torch.testing.assert_close(fpn([Dense(x[frame : frame + 1]) for x in features])[0], together[frame])


def test_the_skip_is_the_rectified_input_as_a_relu_in_place_makes_it():
    """The published unit, with its in-place ReLU, beside ours."""
    unit = ResidualUnit(4).double()

    def published(x):
        out = functional.relu(x, inplace=True)
        out = unit.conv1(out)
        out = functional.relu(out, inplace=True)
        return unit.conv2(out) + x

    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    kept = x.clone()
    expected = published(x.clone())
    assert torch.equal(unit(x), expected)
    assert torch.equal(x, kept)


def test_a_fusion_is_the_published_block():
    fusion = Fusion(4, first=False).double()
    lateral, path = (torch.randn(1, 4, 3, 3, dtype=torch.float64) for _ in range(2))
    summed = path + fusion.lateral_unit(lateral)
    expected = functional.interpolate(fusion.unit(summed), size=(6, 6), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(lateral, path), expected)
    corners = fusion(lateral, path)[..., ::5, ::5]
    torch.testing.assert_close(corners, fusion.unit(summed)[..., ::2, ::2])


def test_the_output_head_has_no_relu_before_its_resize():
    head = OutputHead(16).double()
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    enlarged = functional.interpolate(head.conv1(x), size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(x), head.conv3(functional.relu(head.conv2(enlarged))))


def test_class_tokens_are_left_out_and_grids_are_resized_bicubically():
    tokens = torch.randn(2, 1 + 6, 5)
    expected = tokens[:, 1:].reshape(2, 2, 3, 5).permute(0, 3, 1, 2)
    assert torch.equal(to_map(tokens, (2, 3), 2)[..., :0], expected[..., :0])
    resized = functional.interpolate(expected, (4, 4), mode="bicubic", align_corners=False)
    assert torch.equal(to_map(tokens, (2, 3), 4), resized)
    square = torch.randn(1, 5, 3)
    assert torch.equal(to_map(square, (2, 2), 2), square[:, 1:].reshape(1, 2, 2, 3).permute(0, 3, 1, 2))


def test_a_dilated_lateral_sums_four_branches():
    lateral = DilatedLateral(TINY[0], 8, 4, inner=4).double()
    tokens = Dense(torch.randn(1, 64, 8, dtype=torch.float64))
    picture = lateral.linear(tokens)
    assert [branch.dilation for branch in lateral.branches] == [(3, 3), (6, 6), (12, 12), (18, 18)]
    torch.testing.assert_close(lateral(tokens), sum(branch(picture) for branch in lateral.branches))


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        (TINY[:3], {}, r"the FPN reads 4 stages of the visual backbone, not 3\n  next: .*visual/pyramid"),
        (TINY, {"lateral": "conv"}, "the FPN has no 'conv' laterals; use one of linear, dilated"),
        (TINY, {"width": 12}, "the FPN's width 12 is not a multiple of 8"),
    ],
)
def test_what_is_refused(stages, options, message):
    with pytest.raises(UsageError) as caught:
        FPN(stages, **options)
    caught.match(message)
