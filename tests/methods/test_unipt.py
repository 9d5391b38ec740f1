"""UniPT against its formulas, written out token by token."""

import math

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.methods.unipt import UniPT, UniPTOptions
from tests.methods.conftest import FORMS
from tests.methods.kernels.test_guided import formula as guided_formula
from tests.methods.side_networks import (
    FLAT,
    HIERARCHICAL,
    HTSAT,
    SWIN,
    UNEVEN,
    VIT,
    assert_close_under_autocast,
    assert_equals,
    assert_micro_batches_add_up,
    clip_tokens,
    count,
    far_from_the_start,
    frames_of,
    kept_floats,
    stage_outputs,
    table,
    with_embedding,
)
from tests.methods.test_lst import layer_norm

TINY = {"dim": 5, "width_visual": 6, "width_audio": 6}


def l1_normalise(row):
    return row / (row.abs().sum() + 1e-6)


def oracle_of(layers, *, share_guide=True):
    last = layers[-1]
    hierarchical = any(layer.grid != last.grid for layer in layers)

    def on_the_last_grid(p, layer, frames):
        """``[F, n, D]``."""
        stage, block = f"s{layer.stage}", f"s{layer.stage}b{layer.block:02d}"
        guided = layer.grid != last.grid if share_guide else hierarchical and layer != last
        if not guided:
            return frames[layer.name]
        name = stage if share_guide else block
        guide = torch.relu(frames[last.name] @ p[f"guides.{name}.weight"].T + p[f"guides.{name}.bias"])
        # the nearest neighbour of a token's place is the cell that it is in
        cells = type("Grids", (), {"grid": layer.grid, "coarse": last.grid})
        return guided_formula(frames[layer.name], guide, cells)

    def one_frame(p, pooled):
        states = []
        for number, x in enumerate(pooled):
            projected = x @ p[f"downs.{number}.weight"].T + p[f"downs.{number}.bias"]
            states.append(layer_norm(projected, p[f"norms.{number}.weight"], p[f"norms.{number}.bias"]))
        *states, anchor = states
        merged, confidences = [], []
        for state in states:
            rows = []
            for token, query in enumerate(anchor):
                weights = l1_normalise(torch.relu(torch.stack([(query * key).sum() for key in state])))
                rows.append(sum(w * key for w, key in zip(weights, state, strict=True)) + state[token])
            merged.append(torch.stack(rows))
            asked = anchor.mean(0) * state.mean(0)
            confidences.append((p["confidence.weight"] @ asked + p["confidence.bias"])[0])
        gamma = torch.softmax(torch.stack(confidences), 0)
        mixed = sum(share * x for share, x in zip(gamma, merged, strict=True))
        mixed = mixed @ p["mix.0.weight"].T + p["mix.0.bias"]
        mixed = layer_norm(mixed, p["mix.1.weight"], p["mix.1.bias"])
        y = torch.relu(anchor + mixed) @ p["up.weight"].T + p["up.bias"]
        return y.mean(0)

    def oracle(parameters, frames):
        pooled = [on_the_last_grid(parameters, layer, frames) for layer in layers]
        return torch.stack([one_frame(parameters, [x[i] for x in pooled]) for i in range(len(pooled[0]))])

    return oracle


@pytest.mark.parametrize("layers", [HIERARCHICAL, FLAT], ids=["hierarchical", "flat"])
@pytest.mark.parametrize("form", FORMS)
def test_formulas(form, layers):
    module = far_from_the_start(UniPT(layers, UniPTOptions(**TINY)))
    assert_equals(module, oracle_of(layers), clip_tokens(form, layers))


@pytest.mark.parametrize("layers", [HIERARCHICAL, FLAT, UNEVEN], ids=["hierarchical", "flat", "uneven"])
def test_a_guide_for_each_layer(layers):
    module = far_from_the_start(UniPT(layers, UniPTOptions(**TINY, share_guide=False)))
    assert_equals(module, oracle_of(layers, share_guide=False), clip_tokens("int8", layers))
    guided = [] if layers is FLAT else [layer.name.split("/")[1] for layer in layers[:-1]]
    assert list(module.guides) == guided


@pytest.mark.parametrize(
    "layers", [UNEVEN, with_embedding(HIERARCHICAL), HIERARCHICAL[1:4:2]], ids=["uneven", "embedding", "two layers"]
)
def test_other_tables(layers):
    module = far_from_the_start(UniPT(layers, UniPTOptions(**TINY)))
    assert_equals(module, oracle_of(layers), clip_tokens("float64", layers))


def test_layers_of_nothing_leave_the_projected_anchor():
    """T_l = 0 for every l < L, and LN(0) = 0: Y = Linear(relu(A))."""
    module, tokens = far_from_the_start(UniPT(HIERARCHICAL, UniPTOptions(**TINY))), clip_tokens("int8", HIERARCHICAL)
    with torch.no_grad():
        for norm in module.norms[:-1]:
            norm.weight.zero_()
            norm.bias.zero_()
        module.mix[0].bias.zero_()
        module.mix[1].bias.zero_()
    last = frames_of(tokens)["visual/s2b02"]
    anchor = torch.relu(module.norms[-1](module.downs[-1](last)))
    expected = module.up(anchor).mean(1).unflatten(0, (2, 2))
    torch.testing.assert_close(module(tokens), expected, rtol=1e-12, atol=1e-12)


def test_autocast_rounds_little():
    torch.manual_seed(0)
    assert_close_under_autocast(UniPT(HIERARCHICAL, UniPTOptions(**TINY)), clip_tokens("int8", HIERARCHICAL))


def test_micro_batches_add_up():
    module = far_from_the_start(UniPT(HIERARCHICAL, UniPTOptions(**TINY)))
    assert_micro_batches_add_up(module, clip_tokens("int8", HIERARCHICAL, clips=3))


@pytest.mark.parametrize(
    "layers",
    [table("visual", (2, (16, 16), 8), (1, (2, 2), 16)), table("visual", (3, (2, 2), 64))],
    ids=["hierarchical", "flat"],
)
def test_no_floats_of_a_layers_size_are_kept(layers):
    shapes = kept_floats(UniPT(layers, UniPTOptions(dim=2, width_visual=2)), clip_tokens("int8", layers))
    assert shapes
    assert max(map(math.prod, shapes)) < 4 * layers[0].tokens * layers[0].width / 2


def closed_form(layers, width, dim, *, share=True):
    """docs/methods.md, "UniPT"."""
    last = layers[-1]
    if share:
        guided = {layer.stage: layer.width for layer in layers if layer.grid != last.grid}.values()
    else:
        guided = [layer.width for layer in layers[:-1]]
    downs = sum(layer.width * width + 3 * width for layer in layers)
    guides = sum(last.width * guide + guide for guide in guided)
    return downs + guides + (width**2 + 3 * width) + (width + 1) + (width * dim + dim)


@pytest.mark.parametrize(
    ("visual", "audio", "options", "millions"),
    [
        (SWIN, HTSAT, UniPTOptions(), (16.77, 2.47)),
        (SWIN, HTSAT, UniPTOptions(reduction=1), (32.66, 4.73)),
        (SWIN, HTSAT, UniPTOptions(share_guide=False), (40.08, 4.76)),
        (SWIN, HTSAT, UniPTOptions(preset="matched"), (67.22, 8.68)),
        (stage_outputs(SWIN), stage_outputs(HTSAT), UniPTOptions(dim=768), (5.47, 1.52)),
        (VIT, VIT, UniPTOptions(), (13.02, 13.02)),
    ],
    ids=["official", "not reduced", "unshared", "matched", "LLP official", "ViT"],
)
def test_parameters(visual, audio, options, millions):
    """Sums of the two: 19.2, 37.4, 44.9 and 75.9 M."""
    for layers, expected in zip((visual, audio), millions, strict=True):
        with on_meta():
            module = UniPT(layers, options)
        width = options.width(layers[-1])
        assert count(module) == closed_form(layers, width, options.dim, share=options.shares_guides)
        assert count(module) / 1e6 == pytest.approx(expected, abs=0.005)


def test_all_layers_are_read_whole():
    layers = (*HIERARCHICAL, *UNEVEN)
    choice = MethodChoice("unipt", UniPTOptions(**TINY))
    assert (choice.layers(layers), choice.pooled(layers)) == (layers, ())


def test_an_anchor_alone_is_refused():
    with pytest.raises(UsageError, match=r"at least one more layer of each modality, not 1\n.*layers=stages"):
        UniPT(HIERARCHICAL[-1:])
