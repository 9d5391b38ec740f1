"""Adapters in the blocks: nothing with closed gates, gradients for them alone, and the published totals."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

from mettle_cache.backbones import create_backbone, layer_table, shared_audio
from mettle_cache.backbones.factory import frozen_parameters
from mettle_cache.backbones.trunk import FrozenTrunk, build_seeded
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.meta_device import on_meta
from mettle_cache.pipelines.benchmark.baselines.lavish import AdaptedBackbones, Adapter, pair_blocks

# what `docs/costs.md` tells of an adapter of width D that reads tokens of width C
CLASSIFIERS = {"swinv2_l": 1_588_253, "vit_l16": 1_063_965}


def closed_form(width, other_width):
    aligned = 0 if width == other_width else width * other_width
    return width**2 // 8 + 8 * width + width // 4 + 3 + aligned


@pytest.fixture(scope="module")
def vit():
    visual = create_backbone("test_vit@64", weights="random")
    return visual, shared_audio(visual)


class SmallSwin:
    """A Swin of four stages, of the second kind as Swin-V2-L or of the first as HTS-AT's trunk."""

    segment_shape = (3, 64, 64)

    def __init__(self, kind, modality, depths):
        sizes = {"img_size": 64, "patch_size": 2, "embed_dim": 16, "depths": depths, "num_heads": (2, 2, 4, 4)}
        network = build_seeded(lambda: kind(**sizes, window_size=4, num_classes=0), seed=5)
        self.name, self.layers = "small", tuple(layers(modality, *depths, width=16))
        self.trunk = FrozenTrunk(network, [block for stage in network.layers for block in stage.blocks], "NHWC")

    def forward_tokens(self, x):
        return dict(zip([layer.name for layer in self.layers], self.trunk(x), strict=True))


@pytest.fixture(scope="module")
def two_swins():
    """Of the third stage's blocks every third of the one meets one of the other."""
    return SmallSwin(SwinTransformerV2, "visual", (2, 1, 6, 2)), SmallSwin(SwinTransformer, "audio", (2, 1, 2, 1))


def inputs_of(backbones, frames):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(frames, *backbone.segment_shape, generator=generator) for backbone in backbones]


@pytest.mark.parametrize("pair", ["vit", "two_swins"])
def test_closed_gates_leave_the_frozen_backbones_as_they_are(request, pair):
    backbones = request.getfixturevalue(pair)
    inputs = inputs_of(backbones, 1)
    with torch.no_grad():
        adapted = AdaptedBackbones(*backbones).eval()(*inputs)
    expected = backbones[0].forward_tokens(inputs[0]) | backbones[1].forward_tokens(inputs[1])
    assert adapted.keys() == expected.keys()
    for name, tokens in expected.items():
        torch.testing.assert_close(adapted[name], tokens, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_adapter_and_no_weight_of_a_backbone(vit):
    torch.manual_seed(0)
    adapted = AdaptedBackbones(*vit).train()
    for module in adapted.modules():
        if isinstance(module, Adapter):
            torch.nn.init.constant_(module.gate, 0.3)
            torch.nn.init.constant_(module.cross_gate, 0.3)
    tokens = adapted(*inputs_of(vit, 3))
    last = [backbone.layers[-1].name for backbone in vit]
    sum(tokens[name].square().mean() for name in last).backward()
    dead = [name for name, parameter in adapted.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert dead == []
    assert all(parameter.grad is None for parameter in vit[0].trunk.parameters())


def test_an_adapter_is_its_formula_in_double_precision():
    torch.manual_seed(1)
    adapter = Adapter(16, 24).double().eval()
    for name, parameter in adapter.named_parameters():
        if "norm" in name or "gate" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    x, other = torch.randn(2, 5, 16).double(), torch.randn(2, 7, 24).double()
    p = dict(adapter.named_parameters())

    def norm(name, values):
        centred = values - values.mean(-1, keepdim=True)
        scale = (values.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    def batch_norm(name, values):  # in eval mode: running mean 0, running variance 1
        return values / (1 + 1e-5) ** 0.5 * p[f"{name}.weight"] + p[f"{name}.bias"]

    def grouped(name, values):
        weight = p[f"{name}.weight"][..., 0]
        outputs, inputs = weight.shape[0] // 2, weight.shape[1]
        halves = [
            values[..., g * inputs : (g + 1) * inputs] @ weight[g * outputs : (g + 1) * outputs].T for g in (0, 1)
        ]
        return torch.cat(halves, -1)

    y = other @ p["align.weight"].T
    latents = p["latents"] + p["compress_gate"] * torch.softmax(p["latents"] @ y.transpose(1, 2), -1) @ y
    z = x + p["cross_gate"] * torch.softmax(x @ latents.transpose(1, 2), -1) @ latents
    z = torch.relu(batch_norm("norm_down", grouped("down", norm("norm_before", z))))
    expected = p["gate"] * norm("norm_after", batch_norm("norm_up", grouped("up", z)))
    torch.testing.assert_close(adapter(x, other), expected)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == closed_form(16, 24)


@pytest.mark.parametrize(("name", "published"), [("swinv2_l", 238.8), ("vit_l16", 340.1)])
def test_the_published_totals_of_one_backbone_for_both_come_out(name, published):
    """LAVISH's own bridges between widths, which no published forward pass uses, are D^2 / 128 of stages 2 to 4."""
    widths = [layer.width for layer in layer_table(name, "visual")]
    with on_meta():
        adapters = 4 * sum(sum(p.numel() for p in Adapter(width, width).parameters()) for width in widths)
    assert adapters == 4 * sum(closed_form(width, width) for width in widths)
    bridges = sum(width**2 // 128 for width in (384, 768, 1536)) if name == "swinv2_l" else 0
    total = (frozen_parameters(name) + adapters + CLASSIFIERS[name] + bridges) / 1e6
    assert total == pytest.approx(published, abs=0.05)


def test_the_blocks_of_swin_and_htsat_meet_as_their_peers_have_them():
    pairs = pair_blocks(layer_table("swinv2_l", "visual"), layer_table("htsat", "audio"))
    assert pairs[:4] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [visual - 3 for visual, _ in pairs[4:10]] == [3, 6, 9, 12, 15, 18]
    assert pairs[10:] == [(22, 10), (23, 11)]


def layers(modality, *blocks, width=1):
    return [
        LayerSpec(modality=modality, stage=stage, block=block, grid=(2, 2), tokens=4, width=width << stage - 1)
        for stage, count in enumerate(blocks, 1)
        for block in range(1, count + 1)
    ]


@pytest.mark.parametrize("audio", [(2,), (2, 3)])
def test_blocks_that_cannot_be_paired_are_refused(audio):
    with pytest.raises(UsageError, match="cannot be paired"):
        pair_blocks(layers("visual", 2, 2), layers("audio", *audio))


def test_a_cnn_has_no_place_for_adapters(vit):
    cnn = create_backbone("test_resnet@64", weights="random")
    with pytest.raises(UsageError, match="'test_resnet@64' has no transformer blocks"):
        AdaptedBackbones(cnn, vit[1])
