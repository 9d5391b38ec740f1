"""The folded LCD against the oracle of its module: nn.MultiheadAttention on decoded tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.folded import FoldedLCD, fold_lcd
from mettle_cache.methods.lcd import LCD
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.stock import lcd_options
from tests.methods.test_lcd import CLIPS, LAYERS, SEGMENTS, build_pair, clip_tokens

SWITCHES = [
    {"dim": 24},
    {"dim": 8, "meta_tokens": 2},
    {"norm": False},
    {"residual": True, "meta_tokens": 2},
    {"task_specific": False},
    {"pretrained_branch": "avgpool", "meta_tokens": 2},
    {"pretrained_branch": "none"},
    {"task_specific": False, "pretrained_branch": "avgpool", "dim": 8},
    {"meta_tokens": [4, 1]},
    {"heads": 4},
    {"layers": LAYERS[2:], "dim": None},
    {"layers": LAYERS[:2], "dim": None, "meta_tokens": 2},
    {"layers": LAYERS[:2], "dim": None, "task_specific": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_folding_changes_nothing_but_the_rounding(form, switches):
    module, stock = build_pair(**switches)
    tokens = clip_tokens(form, switches.get("layers", LAYERS))
    folded, expected = fold_lcd(module)(tokens), stock(tokens)
    assert folded.shape == (CLIPS, SEGMENTS, module.output_dim)
    assert (folded - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("switches", [{}, {"meta_tokens": 2, "residual": True}, {"norm": False}], ids=str)
def test_single_precision_is_within_1e_5(form, switches):
    _, stock = build_pair(**switches)
    module = LCD(LAYERS, lcd_options(**switches))
    module.load_state_dict(stock.lcd.state_dict())
    tokens = clip_tokens(form)
    folded, expected = fold_lcd(module)(tokens), stock(tokens)
    assert folded.dtype == torch.float32
    assert (folded - expected).abs().max() <= 1e-5 * expected.abs().max()


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4]),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    meta_tokens=st.integers(1, 3),
    dim=st.integers(1, 20),
    norm=st.booleans(),
    residual=st.booleans(),
    branch=st.sampled_from(["linear", "avgpool", "none"]),
)
def test_any_shape(heads, widths, grid, meta_tokens, dim, norm, residual, branch):
    layers = tuple(
        LayerSpec(modality="audio", stage=1, block=n + 1, grid=grid, tokens=grid[0] * grid[1], width=4 * width)
        for n, width in enumerate(widths)
    )
    module, stock = build_pair(
        layers,
        heads=heads,
        dim=dim,
        meta_tokens=meta_tokens,
        norm=norm,
        residual=residual,
        pretrained_branch=branch,
    )
    tokens = clip_tokens("int8", layers)
    expected = stock(tokens)
    assert (fold_lcd(module)(tokens) - expected).abs().max() <= 1e-11 * max(1.0, expected.abs().max().item())


def test_codes_and_the_floats_they_stand_for_give_the_same():
    folded = fold_lcd(build_pair(meta_tokens=2)[0])
    for form in ("int8", "int4"):
        tokens = clip_tokens(form)
        decoded = {name: LayerTokens(layer.floats(torch.float64), FLOATS) for name, layer in tokens.items()}
        assert torch.allclose(folded(tokens), folded(decoded), rtol=1e-12, atol=1e-12)


def test_folding_leaves_the_module_alone():
    module, _ = build_pair()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fold_lcd(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_parameters_of_the_published_setting():
    """Counted by hand for Swin-V2-L, K = 2, H = 8, d = 256: K H D + D² + 2 d D + N a layer, and d."""
    stages = ((1, 2, 48, 192), (2, 2, 24, 384), (3, 18, 12, 768), (4, 2, 6, 1536))
    layers = [
        LayerSpec(modality="visual", stage=s, block=b + 1, grid=(side, side), tokens=side * side, width=width)
        for s, blocks, side, width in stages
        for b in range(blocks)
    ]
    folded = fold_lcd(LCD(layers, lcd_options(meta_tokens=2)))
    expected = sum(n * (16 * d + d * d + 2 * 256 * d + side * side) for _, n, side, d in stages) + 256
    assert sum(parameter.numel() for parameter in folded.parameters()) == expected
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_more_than_one_step_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"visual/s1b01: LCD with R = 2 cannot be folded: .* queries depend on the"):
        fold_lcd(LCD(LAYERS, lcd_options(steps=2)))


def test_steps_do_not_matter_without_the_attention_branch():
    module, stock = build_pair(steps=3, task_specific=False)
    tokens = clip_tokens("int8")
    assert torch.allclose(fold_lcd(module)(tokens), stock(tokens), rtol=1e-12, atol=1e-12)


def test_the_description_gives_the_module_back():
    folded = fold_lcd(build_pair(meta_tokens=[2, 1])[0])
    again = FoldedLCD.from_json(folded.to_json())
    again.load_state_dict(folded.state_dict(), assign=True)
    tokens = clip_tokens("int4")
    assert torch.equal(again(tokens), folded(tokens))
    assert again.layers == folded.layers
