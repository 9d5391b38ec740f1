"""LCD as equation 3.1 prints it: against the equation itself, with every token projected to a key and a value."""

import json

import pytest
import torch

from mettle_cache.backbones.factory import frozen_parameters
from mettle_cache.errors import OptionsError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.folded import fold_lcd
from mettle_cache.methods.lcd import LCD, LCDOptions
from tests.methods.probed import swin_and_htsat
from tests.methods.test_lcd import CLIPS, LAYERS, SEGMENTS, clip_tokens

PRINTED = {"out_proj": False, "scale": False, "norm": False, "heads": 4, "dim": 12}


def build(layers=LAYERS, **switches):
    """An LCD in double precision, far from its initial values but with logits that a softmax can bear."""
    torch.manual_seed(0)
    lcd = LCD(layers, LCDOptions(**{**PRINTED, **switches})).double()
    with torch.no_grad():
        for parameter in lcd.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return lcd


def attend(meta, tokens, weight, bias, heads, scale):
    """Equation 3.1 for one frame: ``softmax((W_Q M)(W_K X)^T) W_V X`` in each head, with no residual."""
    width = tokens.shape[-1]
    (wq, wk, wv), (bq, bk, bv) = weight.split(width), bias.split(width)
    queries, keys, values = meta @ wq.T + bq, tokens @ wk.T + bk, tokens @ wv.T + bv
    parts = []
    for part in torch.arange(width).chunk(heads):
        logits = queries[:, part] @ keys[:, part].T
        parts.append(torch.softmax(logits / len(part) ** 0.5 if scale else logits, -1) @ values[:, part])
    return torch.cat(parts, -1)


def plainly(lcd, tokens):
    """Equations 3.1 to 3.3, frame by frame."""
    collected = []
    for key, layer in zip(lcd.distillers, lcd.layers, strict=True):
        distiller, options = lcd.distillers[key], lcd.distillers[key].options
        linear, frames = distiller.projections[0], []
        for x in tokens[layer.name].floats(torch.float64).flatten(0, 1):
            mixed = 0
            if options.pretrained_branch == "linear":
                mixed = distiller.mix.weight @ x + distiller.mix.bias[:, None]
            elif options.pretrained_branch == "avgpool":
                mixed = x.mean(0, keepdim=True)
            meta = distiller.meta_tokens
            for _ in range(distiller.steps):
                meta = attend(meta, x, linear.weight, linear.bias, options.heads, options.scale) + mixed
            frames.append(lcd.projections[key](meta))
        collected.append(torch.stack(frames))
    return torch.cat(collected, 1).mean(1).unflatten(0, (CLIPS, SEGMENTS))


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"k_visual": 2},
        {"steps_visual": 3, "k_visual": (2, 1)},
        {"pretrained_branch": "avgpool"},
        {"pretrained_branch": "none", "steps_visual": 2},
        {"scale": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["float64", "int8", "klt"])
def test_outputs_and_gradients_are_those_of_the_equations(form, switches):
    lcd, tokens = build(**switches), clip_tokens(form)
    if form != "klt":
        # within reach of a softmax without scale
        tokens = {name: shrunk(layer) for name, layer in tokens.items()}
    got, expected = lcd(tokens), plainly(lcd, tokens)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    ours, theirs = (torch.autograd.grad((z * weights).sum(), list(lcd.parameters())) for z in (got, expected))
    for mine, other, (name, _) in zip(ours, theirs, lcd.named_parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(lcd.separate(tokens).mean(2), got)


def shrunk(layer):
    """The same codes with a tenth of their scale, or floats a tenth as large."""
    if not layer.parts:
        return type(layer)(layer.codes / 10, layer.format)
    return type(layer)(layer.codes, layer.format, {**layer.parts, "scale": layer.parts["scale"] / 10})


@pytest.mark.parametrize("norm", [True, False])
def test_an_attention_module_without_scale_is_the_one_with_larger_queries(norm):
    """The scale is a factor of the logits alone: query weights times sqrt(D / H) undo it."""
    scaled, unscaled = (build(LAYERS[:2], out_proj=True, norm=norm, scale=scale) for scale in (True, False))
    with torch.no_grad():
        for distiller in scaled.distillers.values():
            distiller.attention.in_proj_weight[:16] *= 2.0  # sqrt(16 / 4)
            distiller.attention.in_proj_bias[:16] *= 2.0
    tokens = {name: shrunk(layer) for name, layer in clip_tokens("int8", LAYERS[:2]).items()}
    torch.testing.assert_close(unscaled(tokens), scaled(tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("switches", [{}, {"k_visual": (2, 1)}, {"pretrained_branch": "none"}, {"out_proj": True}])
def test_it_folds(switches):
    lcd, tokens = build(**switches), clip_tokens("int4")
    torch.testing.assert_close(fold_lcd(lcd)(tokens), lcd(tokens).detach(), rtol=1e-11, atol=1e-10)


def test_parameters_are_those_of_three_matrices():
    def count(layer, **switches):
        with torch.device("meta"):
            lcd = LCD([layer], LCDOptions(**{**PRINTED, **switches}))
        return sum(parameter.numel() for parameter in lcd.parameters())

    layer = LayerSpec(modality="visual", stage=1, block=1, grid=(2, 3), tokens=6, width=16)
    rest = 16 + (6 + 1) + (16 * 12 + 12)
    assert count(layer) == count(layer, steps_visual=3) == 3 * (16 * 16 + 16) + rest
    assert count(layer, k_visual=2, pretrained_branch="none") == 3 * (16 * 16 + 16) + 2 * 16 + (16 * 12 + 12)


@pytest.mark.parametrize(("shared", "expected"), [(False, 320.1), (True, 333.0)])
def test_with_three_matrices_the_totals_of_events_are_those_that_the_published_ones_rule_out(shared, expected):
    """With CMBS's 0.550 M, as the totals of four matrices are counted that come to 338.0 and 364.4."""
    offered = swin_and_htsat()
    visual = [layer for layer in offered if layer.modality == "visual"]
    audio = visual if shared else [layer for layer in offered if layer.modality == "audio"]

    def total(k_visual, **switches):
        options = LCDOptions(**{**PRINTED, "heads": 8, "dim": 256, **switches})
        counted = 550_229 + frozen_parameters("swinv2_l") + (0 if shared else frozen_parameters("htsat"))
        for layers, count in ((visual, k_visual), (audio, 1)):
            with torch.device("meta"):
                lcd = LCD(layers, LCDOptions(**{**vars(options), "k_visual": count}))
            counted += sum(parameter.numel() for parameter in lcd.parameters())
        return counted / 1e6

    assert total(1 if shared else 2) == pytest.approx(expected, abs=0.05)
    four = total(1 if shared else 2, out_proj=True)
    assert four == pytest.approx(364.4 if shared else 338.0, abs=0.05)


def test_the_default_is_the_reading_that_fits_the_published_totals():
    assert (LCDOptions().out_proj, LCDOptions().scale, LCDOptions().norm) == (True, True, True)
    assert LCDOptions().matrices() is None


@pytest.mark.parametrize("extra", [{"norm": True}, {"norm": False, "residual": True}])
def test_matrices_have_neither_norm_nor_residual(extra):
    with pytest.raises(OptionsError, match=r"out_proj = false is equation 3.1, which has neither norm nor residual"):
        LCDOptions(out_proj=False, **extra)


def test_options_survive_a_recipe_s_json():
    options = LCDOptions(**PRINTED)
    assert LCDOptions(**json.loads(json.dumps(vars(options)))) == options
