"""LCD: against nn.MultiheadAttention on decoded tokens, and every switch of Tables 6 to 10."""

from dataclasses import replace

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods import lcd
from mettle_cache.methods.kernels import ops, reference
from mettle_cache.methods.lcd import LCD, LCDOptions
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import make_tokens
from tests.methods.stock import StockLCD, lcd_options

LAYERS = tuple(
    LayerSpec(modality="visual", stage=stage, block=block, grid=(side, side), tokens=side * side, width=width)
    for stage, block, side, width in ((1, 1, 6, 16), (1, 2, 6, 16), (2, 1, 3, 32))
)
CLIPS, SEGMENTS = 2, 3


def clip_tokens(form, layers=LAYERS):
    frames = CLIPS * SEGMENTS
    flat = {
        layer.name: make_tokens(form, frames, layer.tokens, layer.width, seed=layer.stage * 10 + layer.block)
        for layer in layers
    }

    return {name: t.map(lambda part: part.unflatten(0, (CLIPS, SEGMENTS))) for name, t in flat.items()}


def build_pair(layers=LAYERS, **switches):
    """The same weights, far from their initial values, behind both paths."""
    torch.manual_seed(0)
    absorbed = LCD(layers, lcd_options(**switches)).double()
    with torch.no_grad():
        for parameter in absorbed.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return absorbed, StockLCD(absorbed)


def assert_pair_agrees(form, **switches):
    absorbed, stock = build_pair(**switches)
    tokens = clip_tokens(form, switches.get("layers", LAYERS))
    outputs = [module(tokens) for module in (absorbed, stock)]
    assert outputs[0].shape == (CLIPS, SEGMENTS, absorbed.output_dim)
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)).sum().backward()
    assert torch.allclose(*outputs, rtol=1e-12, atol=1e-12)
    for (name, ours), theirs in zip(absorbed.named_parameters(), stock.parameters(), strict=True):
        scale = max(1.0, theirs.grad.abs().max().item())
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12 * scale), name


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("meta_tokens", [1, 2, 4])
def test_absorbed_equals_stock(form, meta_tokens, steps):
    assert_pair_agrees(form, meta_tokens=meta_tokens, steps=steps, dim=24)


@pytest.mark.parametrize(
    "switches",
    [
        {"norm": False},
        {"residual": True, "steps": 3},
        {"task_specific": False},
        {"pretrained_branch": "avgpool"},
        {"pretrained_branch": "none", "steps": 2},
        {"task_specific": False, "pretrained_branch": "avgpool", "dim": 8},
        {"meta_tokens": [4, 1]},
        {"heads": 4},
        {"layers": LAYERS[2:], "dim": None},
        {"layers": LAYERS[:2], "dim": None, "meta_tokens": 2},
    ],
    ids=str,
)
def test_every_switch_means_the_same_on_both_paths(switches):
    assert_pair_agrees("int8", **switches)


def test_nothing_is_kept_for_the_backward_pass_but_what_is_there_anyway():
    """Of a layer: its codes, which are the reader's, and parameters; no activations, whatever the number of frames."""
    module = LCD(LAYERS, LCDOptions(dim=8))
    tokens = clip_tokens("int8")
    own = {part.untyped_storage().data_ptr() for t in tokens.values() for part in (t.codes, t.scale, t.zero)}
    own |= {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(tokens)
    # folding the queries keeps vectors of the meta-tokens' size
    assert not [shape for shape in kept.values() if shape[0] in (CLIPS, CLIPS * SEGMENTS)]


def test_int8_and_int4_need_no_decoding():
    """Codes and their decoded floats give the same meta-tokens."""
    module, _ = build_pair()
    for form in ("int8", "int4"):
        tokens = clip_tokens(form)
        decoded = {name: LayerTokens(t.floats(torch.float64), FLOATS) for name, t in tokens.items()}
        assert torch.allclose(module(tokens), module(decoded), rtol=1e-12, atol=1e-12)


def test_aggregate_is_the_mean_over_layers_and_meta_tokens():
    """Equation 3.3 with K = 4 and 1: five meta-tokens of four and one layers weigh alike."""
    module, _ = build_pair(meta_tokens=[4, 1])
    tokens = clip_tokens("float64")
    parts = []
    for layer in LAYERS:
        key = layer.name.split("/")[1]
        frames = LayerTokens(tokens[layer.name].codes.flatten(0, 1), FLOATS)
        parts.append(module.projections[key](module.distillers[key](frames)))
    expected = torch.cat(parts, dim=1).mean(1).unflatten(0, (CLIPS, SEGMENTS))
    assert torch.allclose(module(tokens), expected, rtol=1e-12, atol=1e-14)


class StageKernel:
    """A machine's way that takes several layers at once: the reference, which notes how many."""

    pool, pool_backward = staticmethod(reference.pool), staticmethod(reference.pool_backward)
    norm_gradients = staticmethod(reference.norm_gradients)

    def __init__(self):
        self.together = []

    def fits(self, tokens, queries):
        return True

    def pool_stage(self, tokens, queries, mixing, eps, contexts):
        self.together.append(len(tokens))
        return [reference.pool(*one, eps, contexts) for one in zip(tokens, queries, mixing, strict=True)]

    def pool_stage_backward(self, tokens, queries, mixing, eps, d_context, d_mixed):
        self.together.append(-len(tokens))
        given = zip(tokens, queries, mixing, strict=True)
        return [
            reference.pool_backward(*one, eps, *gradients)
            for one, gradients in zip(given, zip(d_context, d_mixed, strict=True), strict=True)
        ]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("switches", [{}, {"pretrained_branch": "none"}, {"task_specific": False}, {"residual": True}])
def test_layers_of_a_stage_are_pooled_together_where_the_machines_kernel_takes_several(steps, switches, monkeypatch):
    kernel = StageKernel()
    monkeypatch.setattr(lcd, "layers_side_by_side", lambda tokens: False)
    monkeypatch.setattr(ops, "IMPLEMENTATIONS", (kernel,))
    monkeypatch.setattr(ops, "STAGE_IMPLEMENTATIONS", (kernel,))
    assert_pair_agrees("int8", meta_tokens=2, steps=steps, dim=24, **switches)
    # stage 1 has two layers; that of stage 2 is alone, and needs no stage
    assert kernel.together == [2, -2]


def test_stages_are_distilled_in_full_precision_under_autocast(monkeypatch):
    kernel, module = StageKernel(), build_pair(dim=24)[0].float()
    monkeypatch.setattr(lcd, "layers_side_by_side", lambda tokens: False)
    monkeypatch.setattr(ops, "IMPLEMENTATIONS", (kernel,))
    monkeypatch.setattr(ops, "STAGE_IMPLEMENTATIONS", (kernel,))
    tokens = clip_tokens("int8")
    exact = module(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(tokens), exact)


@pytest.mark.parametrize(("meta_tokens", "expected"), [(1, 67_613_568), (2, 67_640_064)])
def test_parameters_of_swin_are_those_of_the_spec(meta_tokens, expected):
    """docs/protocols/avel.md, "Parameter accounting": LCD on the 24 blocks of Swin-V2-L, projection included."""
    stages = ((1, 2, 48, 192), (2, 2, 24, 384), (3, 18, 12, 768), (4, 2, 6, 1536))
    layers = [
        LayerSpec(modality="visual", stage=s, block=b + 1, grid=(side, side), tokens=side * side, width=width)
        for s, blocks, side, width in stages
        for b in range(blocks)
    ]
    with torch.device("meta"):
        module = LCD(layers, LCDOptions(k_visual=meta_tokens))
    assert sum(p.numel() for p in module.parameters()) == expected


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"layers": ()}, "at least one layer, all of one modality, not none"),
        ({"layers": (LAYERS[0], replace(LAYERS[1], modality="audio"))}, r"not \['audio', 'visual'\]"),
        ({"heads": 5}, "width 16 is not divisible by 5 heads"),
        ({"dim": None}, "need a projection"),
        ({"meta_tokens": [1, 2, 3]}, "3 meta-token numbers for 2 stages"),
        ({"meta_tokens": 0}, "k_visual: Input should be greater than or equal to 1, not 0"),
        ({"steps": 0}, "steps_visual: Input should be greater than or equal to 1, not 0"),
        ({"pretrained_branch": "max"}, "Input should be 'linear', 'avgpool' or 'none', not \"max\""),
        ({"task_specific": False, "pretrained_branch": "none"}, "together leave nothing to train"),
    ],
)
def test_impossible_settings_are_refused(switches, message):
    layers = switches.pop("layers", LAYERS)
    with pytest.raises(UsageError, match=message):
        LCD(layers, lcd_options(**switches))


def test_k_and_steps_are_those_of_the_modality():
    options = LCDOptions(k_visual=2, k_audio=3, steps_visual=1, steps_audio=4)
    audio = [replace(layer, modality="audio") for layer in LAYERS]
    found = [[(d.count, d.steps) for d in LCD(layers, options).distillers.values()] for layers in (LAYERS, audio)]
    assert found == [[(2, 1)] * 3, [(3, 4)] * 3]


def test_separate_meta_tokens_are_those_that_the_mean_is_of(form):
    module, _ = build_pair(meta_tokens=[3, 1], steps=2)
    tokens = clip_tokens(form)
    separate = module.separate(tokens)
    assert separate.shape == (CLIPS, SEGMENTS, 7, 256)
    assert torch.allclose(separate.mean(2), module(tokens), rtol=1e-12, atol=1e-12)
