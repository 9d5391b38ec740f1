"""MoLT: against plain attention over decoded tokens, its counts in closed form, and what its switches promise."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from mettle_cache.errors import OptionsError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.molt import KIND, MoLT, MoLTOptions
from mettle_cache.methods.registry import MethodChoice, method_kind
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.test_lcd import CLIPS, SEGMENTS, clip_tokens

MODALITIES = ("visual", "audio")


def layer(modality, stage, block, side, width):
    return LayerSpec(modality=modality, stage=stage, block=block, grid=(side, side), tokens=side * side, width=width)


VISUAL = (layer("visual", 1, 1, 6, 16), layer("visual", 2, 1, 4, 24), layer("visual", 2, 2, 4, 24))
AUDIO = (layer("audio", 1, 1, 4, 8), layer("audio", 2, 1, 2, 16), layer("audio", 2, 2, 2, 16))
LAYERS = (*VISUAL, *AUDIO)
SMALL = {"dim": 12, "late": 2, "k": 3, "reduction": 4}


def build(layers=LAYERS, **switches):
    """A method with weights far from their initial values."""
    torch.manual_seed(0)
    method = MoLT(layers, MoLTOptions(**{**SMALL, **switches})).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return method


def attend(queries, tokens, scale):
    """Attention of ``[..., K, D]`` over ``[F, N, D]``, without any projection."""
    return (queries @ tokens.mT * scale).softmax(-1) @ tokens


def bottleneck(weights, x):
    width = x.shape[-1:]
    inner = functional.layer_norm(x, width, weights["norm_in.weight"], weights["norm_in.bias"])
    inner = functional.relu(inner @ weights["down.weight"].T) @ weights["up.weight"].T
    return x + functional.layer_norm(inner, width, weights["norm_out.weight"], weights["norm_out.bias"])


def part(weights, name):
    return {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}


def plain_layer(weights, options, own, other):
    """``[F, K, d]`` of decoded tokens of a layer and its partner: every token of the partner is aligned."""
    width = own.shape[-1]
    scale = 1 / math.sqrt(width) if options.scale == "sqrt" else 1.0
    results = []
    if options.router != "cda_only":
        latents = weights["uni_latents"]
        results.append(bottleneck(part(weights, "uni"), latents + attend(latents, own, scale)))
    if options.router != "uda_only":
        aligned = other @ weights["align.weight"].T + weights["align.bias"]
        latents = weights["cross_latents"] + attend(weights["cross_latents"], aligned, scale)
        results.append(bottleneck(part(weights, "cross"), latents + attend(latents, own, scale)))
    if options.routes:
        seen = torch.cat([own.mean(1), aligned.mean(1)], -1)
        hidden = functional.relu(seen @ weights["router.0.weight"].T + weights["router.0.bias"])
        gates = (hidden @ weights["router.2.weight"].T + weights["router.2.bias"]).softmax(-1)
        if options.router == "top1":
            gates = (gates == gates.max(-1, keepdim=True).values).double() - gates.detach() + gates
        results = [gate.view(-1, 1, 1) * result for gate, result in zip(gates.unbind(-1), results, strict=True)]
    return sum(results) @ weights["project.weight"].T + weights["project.bias"]


def plain_fusion(weights, options, layered):
    """``[F, K, d]`` of ``[F, n, K, d]``."""
    if options.fusion == "mean":
        return layered.mean(1)
    scored = layered if options.fusion == "per_token" else layered.mean(2, keepdim=True)
    normed = functional.layer_norm(scored, scored.shape[-1:], weights["score.0.weight"], weights["score.0.bias"])
    hidden = functional.gelu(normed @ weights["score.1.weight"].T + weights["score.1.bias"])
    scores = hidden @ weights["score.3.weight"].T + weights["score.3.bias"]
    return (scores.softmax(1) * layered).sum(1)


def plain_orthogonality(vectors):
    """One frame's vectors ``[M, D]``, cosine by cosine."""
    total = sum(
        functional.cosine_similarity(a, b, dim=0) ** 2
        for m, a in enumerate(vectors)
        for n, b in enumerate(vectors)
        if m != n
    )
    return total / (len(vectors) * (len(vectors) - 1))


def plain_molt(method, tokens, pairs):
    """Fused tokens of each modality ``[B, T, K, d]`` and the loss, of a method's parameters; ``pairs`` by modality."""
    weights, options = dict(method.named_parameters()), method.options
    decoded = {name: stored.floats(torch.float64).flatten(0, 1) for name, stored in tokens.items()}
    fused, losses = [], []
    for modality in MODALITIES:
        layers = [
            plain_layer(
                part(weights, f"adapters.{modality}.{own.split('/')[1]}"), options, decoded[own], decoded[other]
            )
            for own, other in pairs[modality]
        ]
        layered = torch.stack(layers, 1)
        fusion = plain_fusion(part(weights, f"fusions.{modality}"), options, layered)
        fused.append(fusion.unflatten(0, (CLIPS, SEGMENTS)))
        losses.append(torch.stack([plain_orthogonality(frame.flatten(0, 1)) for frame in layered]).mean())
    return *fused, options.orthogonality * sum(losses) / 2


LATE_PAIRS = {
    "visual": [("visual/s2b01", "audio/s2b01"), ("visual/s2b02", "audio/s2b02")],
    "audio": [("audio/s2b01", "visual/s2b01"), ("audio/s2b02", "visual/s2b02")],
}


def assert_agrees(form, pairs=LATE_PAIRS, layers=LAYERS, **switches):
    ours = build(layers, **switches)
    theirs, tokens = copy.deepcopy(ours), clip_tokens(form, layers)
    separate = ours.separate(tokens)
    results = [(separate.visual, separate.audio, separate.losses["orthogonality"]), plain_molt(theirs, tokens, pairs)]
    assert separate.visual.shape == separate.audio.shape == (CLIPS, SEGMENTS, ours.options.count, 12)
    for visual, audio, loss in results:
        weighed = [(x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in (visual, audio)]
        (weighed[0] - 2 * weighed[1] + 30 * loss).backward()
    for our, their in zip(*results, strict=True):
        assert torch.allclose(our, their, rtol=1e-10, atol=1e-10)
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = max(1.0, their.grad.abs().max().item())
        assert torch.allclose(our.grad, their.grad, rtol=1e-10, atol=1e-10 * scale), name


def test_every_codec_gives_what_plain_attention_over_decoded_tokens_gives(form):
    assert_agrees(form)


@pytest.mark.parametrize(
    "switches",
    [
        {"router": "top1"},
        {"router": "uda_only"},
        {"router": "cda_only"},
        {"router": "sum"},
        {"fusion": "per_layer"},
        {"fusion": "mean"},
        {"scale": "none"},
        {"k": 1},
        {
            "late": 1,
            "early": 1,
            "pairs": {
                m: [(f"{m}/s1b01", f"{o}/s1b01"), (f"{m}/s2b02", f"{o}/s2b02")]
                for m, o in (MODALITIES, MODALITIES[::-1])
            },
        },
    ],
    ids=str,
)
def test_every_switch_means_the_same_in_plain_attention(switches):
    assert_agrees("int8", **switches)


@pytest.mark.parametrize("router", ["soft", "cda_only"])
def test_all_layers_of_unequal_depths_are_paired_in_proportion_from_the_end(router):
    layers = (*VISUAL, *AUDIO[1:])
    method = build(layers, late="all", router=router)
    assert method.layers == layers
    a, b = "audio/s2b01", "audio/s2b02"
    v = [spec.name for spec in VISUAL]
    pairs = {"visual": [(v[0], a), (v[1], b), (v[2], b)], "audio": [(a, v[1]), (b, v[2])]}
    assert_agrees("float64", pairs, layers, late="all", router=router)


def test_one_vector_a_segment_is_the_mean_of_the_fused_tokens():
    method, tokens = build(), clip_tokens("float16", LAYERS)
    assert isinstance(method, MoLT)
    one, each = method(tokens), method.separate(tokens)
    assert torch.equal(one.visual, each.visual.mean(-2))
    assert torch.equal(one.audio, each.audio.mean(-2))
    assert one.losses["orthogonality"] == each.losses["orthogonality"] > 0
    assert (method.visual_dim, method.audio_dim) == (12, 12)


def test_weights_of_the_router_and_of_the_layers_sum_to_one():
    tokens = clip_tokens("int8", LAYERS)
    for router in ("soft", "top1"):
        for adapters in build(router=router).adapters["visual"].values():
            means = [tokens[spec.name].floats(torch.float64)[0].mean(1) for spec in (adapters.layer, adapters.other)]
            weights = adapters.route(*means)
            assert torch.allclose(weights.sum(-1), torch.ones(SEGMENTS, dtype=torch.float64), atol=1e-14)
            assert weights.min() >= 0
            assert (router == "top1") == bool(torch.allclose(weights.max(-1).values, torch.ones(1).double()))
    for fusion in ("per_token", "per_layer", "mean"):
        method = build(fusion=fusion)
        layered = method.layer_tokens(tokens)
        for modality, weights in method.fusion_weights(layered).items():
            assert layered[modality].shape == (CLIPS, SEGMENTS, 2, 3, 12)
            assert weights.shape == (CLIPS, SEGMENTS, 2, 3)
            assert torch.allclose(weights.sum(-2), torch.ones(CLIPS, SEGMENTS, 3).double(), atol=1e-14)
            assert (fusion == "per_token") == bool((weights.std(-1) > 1e-6).any())


def test_a_new_method_is_plain_pooling():
    """The bottlenecks start as the identity: the uni-modal adapter's token is its latent and what that attended to."""
    torch.manual_seed(0)
    method = MoLT(LAYERS, MoLTOptions(**SMALL, router="uda_only", fusion="mean")).double()
    tokens = clip_tokens("float64", LAYERS)
    for adapters in method.adapters["audio"].values():
        own = tokens[adapters.layer.name].codes.flatten(0, 1)
        latents = adapters.uni_latents
        pooled = latents + attend(latents, own, own.shape[-1] ** -0.5)
        expected = adapters.project(pooled).unflatten(0, (CLIPS, SEGMENTS))
        place = [spec.name for spec in AUDIO[1:]].index(adapters.layer.name)
        assert torch.allclose(method.layer_tokens(tokens)["audio"][:, :, place], expected, rtol=1e-12, atol=1e-12)


def test_the_regulariser_on_the_latents_themselves():
    method, tokens = build(orthogonal="params", orthogonality=0.5), clip_tokens("float64", LAYERS)
    latents = [adapters.latents for m in MODALITIES for adapters in method.adapters[m].values()]
    assert [each.shape for each in latents] == [(6, 24), (6, 24), (6, 16), (6, 16)]
    expected = 0.5 * sum(plain_orthogonality(each) for each in latents) / 4
    assert method(tokens).losses["orthogonality"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert build(orthogonality=0)(tokens).losses == {}


def test_nothing_but_parameters_gets_a_gradient_and_every_parameter_does():
    for router in ("soft", "top1", "sum", "uda_only", "cda_only"):
        method = build(router=router)
        plain = {name: stored.codes for name, stored in clip_tokens("float64", LAYERS).items()}
        tokens = {name: LayerTokens(codes.requires_grad_(), FLOATS) for name, codes in plain.items()}
        out = method(tokens)
        (out.visual.square().sum() + out.audio.square().sum() + out.losses["orthogonality"]).backward()
        assert all(codes.grad is None for codes in plain.values())
        assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []


def test_a_layer_is_read_twice_and_without_the_cross_modal_adapter_once(monkeypatch):
    from mettle_cache.methods import molt, molt_adapters

    read = []

    def counting(tokens, *args):
        read.append(tokens.count)
        return pool(tokens, *args)

    pool = molt.absorbed_pooling
    for module in (molt, molt_adapters):
        monkeypatch.setattr(module, "absorbed_pooling", counting)
    for router, times in (("soft", 2), ("uda_only", 1)):
        read.clear()
        build(router=router)(clip_tokens("int8", LAYERS))
        assert sorted(read) == sorted([16, 16, 4, 4] * times)


# spec.: (stage, blocks, side, width)
SWIN = ((1, 2, 48, 192), (2, 2, 24, 384), (3, 18, 12, 768), (4, 2, 6, 1536))
HTSAT = ((1, 2, 64, 96), (2, 2, 32, 192), (3, 6, 16, 384), (4, 2, 8, 768))


def full_size(modality, stages):
    return [
        layer(modality, stage, block + 1, side, width)
        for stage, blocks, side, width in stages
        for block in range(blocks)
    ]


def adapters_in_closed_form(width, other, k=4, r=8, d=256):
    bottlenecks = 2 * (2 * width * width // r + 4 * width)
    return 2 * k * width + other * width + width + bottlenecks + 2 * width * 128 + 128 + 258 + width * d + d


@pytest.mark.parametrize(("late", "expected"), [(2, "10.14"), (4, "13.28"), (6, "16.42")])
def test_parameters_are_those_of_the_closed_form(late, expected):
    layers = full_size("visual", SWIN) + full_size("audio", HTSAT)
    with on_meta():
        method = MoLT(layers, MoLTOptions(late=late))
    assert [spec.name for spec in method.layers[:late]] == [spec.name for spec in layers[24 - late : 24]]
    pairs = [(768, 384)] * (late - 2) + [(1536, 768)] * 2
    fusion = 2 * (2 * 256 + 256 * 64 + 64 + 64 + 1)
    counted = sum(adapters_in_closed_form(a, b) + adapters_in_closed_form(b, a) for a, b in pairs) + fusion
    total = sum(parameter.numel() for parameter in method.parameters())
    assert total == counted
    assert f"{total / 1e6:.2f}" == expected


def test_presets_are_the_sizes_that_keys_leave_to_them():
    official, tiny = MoLTOptions(), MoLTOptions(preset="tiny", k=3)
    assert (official.last, official.count, official.bottleneck, official.dim) == (6, 4, 8, 256)
    assert (tiny.last, tiny.count, tiny.bottleneck) == (2, 3, 32)
    assert MoLTOptions(late="all").last is None
    assert method_kind("molt") is KIND
    assert MethodChoice("molt", tiny).layers(LAYERS) == (*VISUAL[1:], *AUDIO[1:])


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"late": 0}, "late = 0 and early = 0 together leave no layer to read"),
        ({"late": "all", "early": 1}, "late = 'all' leaves early nothing to add"),
        ({"k": 0}, "k: Input should be greater than or equal to 1, not 0"),
        ({"router": "hard"}, "router: Input should be 'soft', 'top1'"),
    ],
)
def test_options_that_are_refused(switches, message):
    with pytest.raises(OptionsError, match=message):
        MoLTOptions(**switches)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (
            {},
            r"reads the last 6 visual layers, and 3 are selected\n  next: .*visual/last:6,audio/last:6.*molt.late to 3",
        ),
        (
            {"late": 0, "early": 4},
            r"reads the first 4 visual layers, and 3 are selected\n.*such as all.*molt.early to 3 or less",
        ),
    ],
)
def test_layers_that_are_missing_are_said(switches, message):
    with pytest.raises(UsageError, match=message):
        MoLT(LAYERS, MoLTOptions(**switches))


def test_the_patch_embedding_is_no_layer():
    embedding = layer("visual", 1, 0, 6, 16)
    assert MoLT((embedding, *LAYERS), MoLTOptions(**{**SMALL, "late": "all"})).layers == LAYERS
    assert MoLT((embedding, *LAYERS), MoLTOptions(**{**SMALL, "late": 0}, early=1)).layers == (VISUAL[0], AUDIO[0])


def test_both_modalities_are_needed():
    with pytest.raises(UsageError, match="none of the 3 layers is audio"):
        MoLT(VISUAL, MoLTOptions(late=1))


@pytest.mark.parametrize("form", ["int8", "klt"])
def test_single_precision_takes_the_compiled_kernels_to_the_same_numbers(form):
    exact, tokens = build(), clip_tokens(form, LAYERS)
    single, results = copy.deepcopy(exact).float(), []
    for method in (exact, single):
        found = method.separate(tokens)
        loss = found.visual.square().mean() + found.audio.square().mean() + found.losses["orthogonality"]
        loss.backward()
        gradients = [parameter.grad.double() for parameter in method.parameters()]
        results.append((found.visual.double(), found.audio.double(), *gradients))
    for expected, ours in zip(*results, strict=True):
        assert (ours - expected).abs().max() <= 2e-4 * max(1e-2, expected.abs().max().item())
