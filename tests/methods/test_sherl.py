import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, gelu, layer_norm

from mettle_cache.companions import HeldCompanion
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import describe_refusal
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.pooled import PooledLayer, pool_tokens
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.methods.sherl import SHERL, SHERLOptions, redundancy
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.late_bundles import STORE, ShapesOnly, late_companion


def spec(stage, block, side, width, *, modality="visual", class_tokens=0):
    return LayerSpec(
        modality=modality,
        stage=stage,
        block=block,
        grid=(side, side),
        tokens=side**2 + class_tokens,
        width=width,
    )


# a patch embedding, two stages of a pyramid, and the last one; its second block is the one that is replayed
STAGES = [spec(1, 0, 6, 4), spec(1, 1, 6, 4), spec(2, 1, 3, 8), spec(2, 2, 3, 8), spec(2, 3, 3, 8)]
FLAT = [spec(1, block, 2, 12, modality="audio", class_tokens=1) for block in range(1, 5)]


def tokens_of(layers, seed=0, clips=2, segments=3):
    rng = torch.Generator().manual_seed(seed)
    shape = (clips, segments)
    return {
        layer.name: LayerTokens(
            torch.randn(*shape, layer.tokens, layer.width, generator=rng, dtype=torch.float64), FLOATS
        )
        for layer in layers
    }


def build(layers, *, heads=2, post=False, scaled=False, seed=0, **options):
    torch.manual_seed(seed)
    name = f"late-{layers[0].modality}.safetensors"
    companion = late_companion(*layers[-2:], heads=heads, post=post, scaled=scaled, dtype=torch.float64)
    sherl = SHERL(layers, SHERLOptions(dim=5, **options), {name: companion}).double()
    # buffers are made as float32: give them what the companion holds in double
    for key, tensor in companion.tensors.items() if sherl.late is not None else ():
        sherl.late.get_buffer(key).copy_(tensor)
    return sherl, companion


def expected(sherl, companion, stored, layers, *, gated=False, late=True):
    """Section by section from the equations, one layer, head and token pair at a time; no code of the package."""
    weights = dict(sherl.named_parameters())
    guide_layer = layers[-1]
    deepest = guide_layer.grid

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    features = []
    for layer in layers:
        x = stored[layer.name].codes
        if layer.grid != deepest:
            maps = x.flatten(0, 1).mT.unflatten(-1, layer.grid)
            both = adaptive_avg_pool2d(maps, deepest) + adaptive_max_pool2d(maps, deepest)
            x = both.flatten(-2).mT.unflatten(0, x.shape[:2])
        elif guide_layer.stage > 1:
            x = 2 * x
        at = f"downs.{layer.name.split('/')[1]}"
        if gated:
            h = linear(f"{at}.first", x).relu()
            features.append((linear(f"{at}.second", h) + h) * linear(f"{at}.third", h).sigmoid())
        else:
            y = linear(f"{at}.0", x)
            centred = y - y.mean(-1, keepdim=True)
            y = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            features.append(y * weights[f"{at}.1.weight"] + weights[f"{at}.1.bias"])
    *shallow, guide = features
    raw_scores = []
    for f in shallow:
        rho = sum(torch.cosine_similarity(f, other, dim=-1).relu() for other in shallow)
        raw_scores.append(linear("confidence", f * guide).squeeze(-1).relu() / rho)
    total = sum(raw_scores) + 1e-6
    g = guide + sum((score / total).unsqueeze(-1) * f for score, f in zip(raw_scores, shallow, strict=True))
    y = layer_norm(linear("up", g.relu()), (guide_layer.width,), weights["norm.weight"], weights["norm.bias"])
    raw = stored[guide_layer.name].codes
    z = replay(y + torch.tanh(weights["theta"] / 0.1) * raw, companion) if late else y + raw
    return linear("out", z.mean(-2))


def replay(x, companion):
    """The frozen block by its definition, head by head."""
    t, block = companion.tensors, companion.description
    post, heads, width = block["norm"] == "post", block["heads"], x.shape[-1]

    def norm(name, values):
        return layer_norm(values, (width,), t[f"{name}_weight"], t[f"{name}_bias"], 1e-5)

    def attend(values):
        q, k, v = (values @ t["qkv_weight"].T + t["qkv_bias"]).split(width, dim=-1)
        outs = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            if post:
                unit = [side[..., part] / side[..., part].norm(dim=-1, keepdim=True) for side in (q, k)]
                logits = unit[0] @ unit[1].mT * t["scale"][head]
            else:
                logits = q[..., part] @ k[..., part].mT / math.sqrt(width // heads)
            if "bias" in t:
                logits = logits + t["bias"][head]
            outs.append(logits.softmax(-1) @ v[..., part])
        return torch.cat(outs, -1) @ t["proj_weight"].T + t["proj_bias"]

    def feed(values):
        return gelu(values @ t["fc1_weight"].T + t["fc1_bias"]) @ t["fc2_weight"].T + t["fc2_bias"]

    if post:
        x = x + norm("norm1", attend(x))
        x = x + norm("norm2", feed(x))
    else:
        x = x + t.get("scale1", 1) * attend(norm("norm1", x))
        x = x + t.get("scale2", 1) * feed(norm("norm2", x))
    return norm("final", x)


@pytest.mark.parametrize(
    ("layers", "post", "scaled", "options"),
    [
        (STAGES, True, False, {}),
        (STAGES[1:], False, False, {"down": "gated", "width_visual": 6}),
        (FLAT, False, True, {"reduction": 3}),
        (FLAT, False, False, {"late_blocks": 0, "down": "gated"}),
        (STAGES, False, False, {"late_blocks": 0}),
        (STAGES[-2:], True, False, {}),
    ],
)
def test_outputs_and_gradients_are_those_of_the_equations(layers, post, scaled, options):
    sherl, companion = build(layers, post=post, scaled=scaled, **options)
    late = options.get("late_blocks", 1) == 1
    read = layers[:-1] if late else layers
    assert sherl.layers == tuple(read)
    if late:
        with torch.no_grad():
            sherl.theta.fill_(0.03)
    stored = tokens_of(layers)
    answer = sherl(stored)
    oracle = expected(sherl, companion, stored, read, gated=options.get("down") == "gated", late=late)
    assert answer.shape == (2, 3, 5)
    torch.testing.assert_close(answer, oracle, rtol=0, atol=1e-10)
    direction = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # a side network of the guide alone has no use for a confidence
    parameters = {name: p for name, p in sherl.named_parameters() if len(read) > 1 or "confidence" not in name}
    ours, theirs = (torch.autograd.grad((out * direction).sum(), list(parameters.values())) for out in (answer, oracle))
    for name, mine, wanted in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-10, msg=name)


def test_the_raw_stream_starts_with_weight_zero_and_a_gradient():
    sherl, _ = build(STAGES, post=True)
    stored = tokens_of(STAGES)
    before = sherl(stored)
    other = dict(stored)
    deepest = STAGES[-2].name
    with torch.no_grad():
        # its features are kept, so all that differs is the raw stream
        features = sherl.downs["s2b02"](2 * stored[deepest].codes)
        sherl.downs["s2b02"].forward = lambda x: features
        other[deepest] = LayerTokens(stored[deepest].codes + 1, FLOATS)
        assert torch.equal(sherl(other), before)
    before.square().sum().backward()
    assert sherl.theta.item() == 0
    assert sherl.theta.grad.abs().item() > 1e-3


def test_the_frozen_block_gets_no_gradient_and_is_in_no_checkpoint():
    sherl, _ = build(STAGES, post=True)
    sherl(tokens_of(STAGES)).sum().backward()
    assert all(parameter.grad is not None for parameter in sherl.parameters())
    assert not any(buffer.requires_grad for buffer in sherl.buffers())
    assert sum(buffer.numel() for buffer in sherl.late.buffers()) > 0
    assert not [name for name in sherl.state_dict() if name.startswith("late")]
    assert not list(sherl.late.parameters())


def test_pooled_tokens_of_a_companion_serve_as_well():
    sherl, _ = build(STAGES)
    assert [(pooled.layer.name, pooled.how, pooled.grid) for pooled in sherl.pooled] == [
        (name, how, (3, 3)) for name in ("visual/s1b00", "visual/s1b01") for how in ("mean", "max")
    ]
    stored = tokens_of(STAGES)
    brought = {name: tokens for name, tokens in stored.items() if name.startswith("visual/s2")}
    brought |= {
        pooled.name: LayerTokens(pool_tokens(stored[pooled.layer.name], pooled, torch.float64), FLOATS)
        for pooled in sherl.pooled
    }
    torch.testing.assert_close(sherl(brought), sherl(stored), rtol=0, atol=1e-12)


def test_redundancy_is_from_one_to_the_number_of_layers():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(50, 7, 12, generator=rng)
    rho = redundancy(features)
    assert (rho >= 1).all()
    assert (rho <= 7 + 1e-5).all()
    torch.testing.assert_close(redundancy(torch.eye(4)), torch.ones(4))
    torch.testing.assert_close(redundancy(torch.ones(3, 5)), torch.full((3,), 3.0))
    # zeros are like nothing, and do not divide by zero
    zeros = torch.zeros(2, 5, requires_grad=True)
    redundancy(zeros).sum().backward()
    assert zeros.grad.isfinite().all()


def test_where_no_weight_is_positive_the_guide_is_alone():
    sherl, _ = build(STAGES)
    stored = tokens_of(STAGES)
    with torch.no_grad():
        sherl.confidence.weight.zero_()
        sherl.confidence.bias.fill_(-1)
        alone = sherl(stored)
        for key in ("s1b00", "s1b01", "s2b01"):
            sherl.downs[key][1].weight.mul_(3)
        assert torch.equal(sherl(stored), alone)
    assert alone.isfinite().all()


SWIN = [
    spec(stage, block, side, width)
    for stage, (blocks, side, width) in enumerate([(2, 48, 192), (2, 24, 384), (18, 12, 768), (2, 6, 1536)], 1)
    for block in range(1, blocks + 1)
]
HTSAT = [
    spec(stage, block, side, width, modality="audio")
    for stage, (blocks, side, width) in enumerate([(2, 64, 96), (2, 32, 192), (6, 16, 384), (2, 8, 768)], 1)
    for block in range(1, blocks + 1)
]
VIT = [spec(1, block, 14, 1024, class_tokens=1) for block in range(1, 25)]
EMBED = spec(1, 0, 48, 192), spec(1, 0, 64, 96, modality="audio")
FULL = {
    "late-visual.safetensors": ShapesOnly(*SWIN[-2:], heads=48, post=True),
    "late-audio.safetensors": ShapesOnly(*HTSAT[-2:], heads=32, post=False),
}


def count(layers, companions=FULL, **options):
    with on_meta():
        method = MethodChoice("sherl", SHERLOptions(**options), companions).build(layers)
    return [sum(p.numel() for p in part.parameters()) for part in (method.visual, method.audio)]


def closed_form(layers, m, d, *, gated=False):
    """Section 6 of the design, for the layers that are read and D of the last."""
    last = layers[-1].width
    downs = sum(x.width * m + (m + 2 * (m * m + m) if gated else 3 * m) for x in layers)
    return downs + (m + 1) + 1 + (m * last + 3 * last) + (last * d + d)


@pytest.mark.parametrize(
    ("options", "widths", "millions"),
    [
        ({}, (768, 384), 16.2),
        ({"down": "gated"}, (768, 384), 46.6),
        ({"preset": "matched"}, (1104, 552), 85.8),
        ({"preset": "tiny"}, (192, 96), None),
    ],
)
def test_parameters_of_event_localisation(options, widths, millions):
    gated = options.get("down") == "gated" or options.get("preset") == "matched"
    parts = count([*SWIN, *HTSAT], **options)
    tables = (SWIN[:-1], HTSAT[:-1])
    assert parts == [closed_form(t, m, 256, gated=gated) for t, m in zip(tables, widths, strict=True)]
    if millions:
        assert sum(parts) / 1e6 == pytest.approx(millions, abs=0.05)
    with_embedding = count([EMBED[0], *SWIN, EMBED[1], *HTSAT], **options)
    tables = ([EMBED[0], *SWIN[:-1]], [EMBED[1], *HTSAT[:-1]])
    assert with_embedding == [closed_form(t, m, 256, gated=gated) for t, m in zip(tables, widths, strict=True)]


def test_parameters_of_video_parsing_and_of_a_flat_backbone():
    chosen = select_layers([*SWIN, *HTSAT], "stages,visual/s4b01,audio/s4b01")
    read = [layer for layer in chosen if layer.block < 2 or layer.stage < 4]
    visual, audio = count(chosen, dim=768)
    assert visual == closed_form([x for x in read if x.modality == "visual"], 768, 768)
    assert audio == closed_form([x for x in read if x.modality == "audio"], 384, 768)
    assert [round(part / 1e6, 2) for part in (visual, audio)] == [4.59, 1.45]
    flat = {**FULL, "late-visual.safetensors": ShapesOnly(*VIT[-2:], heads=16, post=False)}
    assert count([*VIT, *HTSAT], flat)[0] / 1e6 == pytest.approx(12.9, abs=0.05)


def test_frozen_blocks_are_not_trained():
    with on_meta():
        method = MethodChoice("sherl", SHERLOptions(), FULL).build([*SWIN, *HTSAT])
    frozen = [
        sum(buffer.numel() for name, buffer in part.late.named_buffers() if name != "bias")
        for part in (method.visual, method.audio)
    ]
    # four matrices of attention and eight of the feed-forward, what is added, norms, and Swin-V2's logit scales
    assert frozen == [12 * 1536**2 + 15 * 1536 + 48, 12 * 768**2 + 15 * 768]
    assert not any(name.startswith("late") for name, _ in method.visual.named_parameters())


def test_the_layers_that_are_read_build_the_same_method():
    choice = MethodChoice("sherl", SHERLOptions(preset="tiny"), FULL)
    read = choice.layers([*SWIN, *HTSAT])
    assert read == (*SWIN[:-1], *HTSAT[:-1])
    assert choice.layers(read) == read
    assert len(choice.pooled(read)) == 2 * (22 + 10)
    assert count(read, preset="tiny") == count([*SWIN, *HTSAT], preset="tiny")
    with on_meta():
        assert choice.build(read).companions == ("late-visual.safetensors", "late-audio.safetensors")


def test_what_lacks_is_said():
    with pytest.raises(UsageError, match=r"there is no late-visual.safetensors beside the store\n.*late_blocks=0"):
        MethodChoice("sherl", SHERLOptions()).build([*SWIN, *HTSAT])
    reason = {"late-visual.safetensors": HeldCompanion(describe_refusal("x has no attention block", STORE), {})}
    with pytest.raises(UsageError, match="replays the backbone's last block: x has no attention block"):
        MethodChoice("sherl", SHERLOptions(), reason).build([*SWIN, *HTSAT])
    with pytest.raises(
        UsageError, match=r"visual/s4b02 from the tokens of visual/s4b01, which is not among the layers"
    ):
        count([*select_layers(SWIN, "stages"), *HTSAT])
    with pytest.raises(UsageError, match=r"the tokens of visual/s1b01 cannot meet those of visual/s1b02"):
        SHERL([spec(1, 1, 2, 8), spec(1, 2, 3, 8)], SHERLOptions(late_blocks=0))


def test_presets_and_keys_that_override_them():
    assert [SHERLOptions(preset=name).width(SWIN[-1]) for name in ("official", "matched", "tiny")] == [768, 1104, 192]
    assert [SHERLOptions(preset=name).gated for name in ("official", "matched", "tiny")] == [False, True, False]
    assert SHERLOptions(preset="matched", down="ln").gated is False
    assert SHERLOptions(width_audio=7).width(HTSAT[-1]) == 7
    assert PooledLayer(layer=SWIN[0], grid=(6, 6), how="max").name == "max/visual/s1b01"
