"""LST against its formulas, written out head by head and cell by cell."""

import math

import pytest
import torch

from mettle_cache.errors import OptionsError, UsageError
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.lst import LST, LSTOptions, attention_heads
from mettle_cache.methods.pooled import PooledLayer, pool_tokens
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import FORMS
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
    kept_floats,
    stage_outputs,
    table,
    with_embedding,
)

TINY = {"dim": 5, "width_visual": 6, "width_audio": 6}


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def block(x, p, heads):
    """A pre-norm transformer block on the tokens ``x [n, m]`` of one frame."""
    width = x.shape[1]
    size = width // heads
    normed = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
    projected = normed @ p["self_attn.in_proj_weight"].T + p["self_attn.in_proj_bias"]
    queries, keys, values = projected[:, :width], projected[:, width : 2 * width], projected[:, 2 * width :]
    attended = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = torch.softmax(queries[:, part] @ keys[:, part].T / math.sqrt(size), dim=1)
        attended.append(weights @ values[:, part])
    x = x + torch.cat(attended, 1) @ p["self_attn.out_proj.weight"].T + p["self_attn.out_proj.bias"]
    normed = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
    hidden = normed @ p["linear1.weight"].T + p["linear1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ p["linear2.weight"].T + p["linear2.bias"]


def average_pool(x, fine, coarse):
    """Tokens ``[N, D]`` of a grid that the coarser one divides, or whose cells overlap: the mean of each cell."""
    (rows, columns), cells = fine, []
    x = x[len(x) - rows * columns :].reshape(rows, columns, -1)
    for i in range(coarse[0]):
        for j in range(coarse[1]):
            top, bottom = math.floor(i * rows / coarse[0]), math.ceil((i + 1) * rows / coarse[0])
            left, right = math.floor(j * columns / coarse[1]), math.ceil((j + 1) * columns / coarse[1])
            cells.append(x[top:bottom, left:right].reshape(-1, x.shape[-1]).mean(0))
    return torch.stack(cells)


def oracle_of(layers, *, merge="before", gate="learned", heads=1):
    def one_frame(p, frame):
        def down(number):
            layer = layers[number]
            x = frame[layer.name]
            x = x if layer.grid == layers[-1].grid else average_pool(x, layer.grid, layers[-1].grid)
            return x @ p[f"downs.{number}.weight"].T + p[f"downs.{number}.bias"]

        def side_block(state, number):
            prefix = f"blocks.{number}."
            return block(
                state, {key[len(prefix) :]: value for key, value in p.items() if key.startswith(prefix)}, heads
            )

        def take_in(state, number):
            if gate == "sum":
                return state + down(number)
            mu = torch.sigmoid(p["alphas"][number - 1] / 0.1)
            return mu * state + (1 - mu) * down(number)

        embedded = layers[0].block == 0
        state = down(0) if embedded else side_block(down(0), 0)
        for number in range(1, len(layers)):
            if merge == "before":
                state = side_block(take_in(state, number), number - embedded)
            else:
                state = take_in(side_block(state, number - embedded), number)
        normed = layer_norm(state, p["norm.weight"], p["norm.bias"])
        return (normed @ p["up.weight"].T + p["up.bias"]).mean(0)

    def oracle(parameters, frames):
        number = len(next(iter(frames.values())))
        return torch.stack([one_frame(parameters, {name: x[i] for name, x in frames.items()}) for i in range(number)])

    return oracle


@pytest.mark.parametrize("layers", [HIERARCHICAL, FLAT], ids=["hierarchical", "flat"])
@pytest.mark.parametrize("form", FORMS)
def test_formulas(form, layers):
    module = far_from_the_start(LST(layers, LSTOptions(**TINY)))
    assert_equals(module, oracle_of(layers), clip_tokens(form, layers))


@pytest.mark.parametrize("embedded", [False, True], ids=["from layer 1", "from the embedding"])
@pytest.mark.parametrize(
    "switches", [{"merge": "after"}, {"gate": "sum"}, {"merge": "after", "gate": "sum"}, {}], ids=str
)
def test_every_switch_from_either_start(switches, embedded):
    layers = with_embedding(HIERARCHICAL) if embedded else HIERARCHICAL
    module = far_from_the_start(LST(layers, LSTOptions(**TINY, **switches)))
    assert_equals(module, oracle_of(layers, **switches), clip_tokens("int8", layers))
    assert (module.alphas is None) == ("gate" in switches)


def test_grids_that_the_last_one_does_not_divide():
    module = far_from_the_start(LST(UNEVEN, LSTOptions(**TINY)))
    assert_equals(module, oracle_of(UNEVEN), clip_tokens("float64", UNEVEN))


def test_heads_are_those_of_the_blocks():
    module = far_from_the_start(LST(HIERARCHICAL, LSTOptions(dim=5, width_visual=96)))
    assert attention_heads(96) == 2
    assert_equals(module, oracle_of(HIERARCHICAL, heads=2), clip_tokens("int4", HIERARCHICAL))


@pytest.mark.parametrize(
    ("width", "heads"), [(384, 8), (192, 4), (96, 2), (256, 4), (488, 8), (244, 4), (568, 8), (284, 4), (61, 1), (1, 1)]
)
def test_heads_are_about_48_wide(width, heads):
    assert attention_heads(width) == heads


def test_gates_start_at_a_half():
    gates = LST(with_embedding(HIERARCHICAL)).gates()
    assert gates.tolist() == [0.5] * len(HIERARCHICAL)
    assert LST(HIERARCHICAL).gates().tolist() == [0.5] * (len(HIERARCHICAL) - 1)
    assert LST(HIERARCHICAL, LSTOptions(gate="sum")).gates() is None


def test_evaluation_without_gradients_gives_the_same():
    """PyTorch then takes another path through a transformer block."""
    module, tokens = (
        far_from_the_start(LST(HIERARCHICAL, LSTOptions(dim=5, width_visual=8))),
        clip_tokens("int8", HIERARCHICAL),
    )
    expected = module(tokens)
    with torch.inference_mode():
        torch.testing.assert_close(module.eval()(tokens), expected, rtol=1e-10, atol=1e-10)


def test_autocast_rounds_little():
    torch.manual_seed(0)
    assert_close_under_autocast(LST(HIERARCHICAL, LSTOptions(**TINY)), clip_tokens("int8", HIERARCHICAL))


def test_micro_batches_add_up():
    module = far_from_the_start(LST(HIERARCHICAL, LSTOptions(**TINY)))
    assert_micro_batches_add_up(module, clip_tokens("int8", HIERARCHICAL, clips=3))


def test_pooled_grids_that_a_loader_brought_take_the_layers_place():
    module = far_from_the_start(LST(HIERARCHICAL, LSTOptions(**TINY)))
    tokens = clip_tokens("int8", HIERARCHICAL)
    assert [pooled.name for pooled in module.pooled] == ["mean/visual/s1b01", "mean/visual/s1b02"]
    brought = {
        pooled.name: LayerTokens(pool_tokens(tokens[pooled.layer.name], pooled, torch.float64), FLOATS)
        for pooled in module.pooled
    }
    coarse = {layer.name: tokens[layer.name] for layer in HIERARCHICAL[2:]}
    assert torch.equal(module({**coarse, **brought}), module(tokens))


def test_what_both_modalities_read_on_a_coarser_grid_is_declared():
    layers = (*HIERARCHICAL, *UNEVEN)
    choice = MethodChoice("lst", LSTOptions(**TINY))
    assert choice.layers(layers) == layers
    assert choice.pooled(layers) == tuple(
        PooledLayer(layer=layer, grid=(2, 3), how="mean") for layer in (HIERARCHICAL[0], HIERARCHICAL[1], UNEVEN[0])
    )
    assert choice.pooled((*FLAT, *UNEVEN[1:])) == ()


def test_no_floats_of_a_fine_layers_size_are_kept():
    layers = table("visual", (2, (16, 16), 8), (1, (2, 2), 16))
    shapes = kept_floats(LST(layers, LSTOptions(**TINY)), clip_tokens("int8", layers))
    assert shapes
    assert max(map(math.prod, shapes)) < 4 * 256 * 8 / 4


def test_dropped_layers_are_not_read():
    options = LSTOptions(**TINY, drop_layers=("visual/s1b02", "visual/s2b01"))
    kept = (HIERARCHICAL[0], HIERARCHICAL[3])
    method = MethodChoice("lst", options).build((*HIERARCHICAL, *UNEVEN))
    assert method.layers == (*kept, *UNEVEN)
    module = far_from_the_start(method.visual)
    assert_equals(module, oracle_of(kept), clip_tokens("int8", kept))


def closed_form(layers, width, dim):
    """docs/methods.md, "LST"; the embedding is one of the layers."""
    blocks = len(layers) - 1
    downs = sum(layer.width * width + width for layer in layers)
    return downs + blocks * (12 * width**2 + 13 * width) + blocks + 2 * width + width * dim + dim


@pytest.mark.parametrize(
    ("visual", "audio", "options", "millions"),
    [
        (SWIN, HTSAT, LSTOptions(), (49.70, 6.26)),
        (SWIN, HTSAT, LSTOptions(preset="tiny"), (14.23, 1.80)),
        (SWIN, HTSAT, LSTOptions(preset="matched"), (77.78, 9.78)),
        (stage_outputs(SWIN), stage_outputs(HTSAT), LSTOptions(dim=768), (8.58, 2.22)),
        (stage_outputs(SWIN), stage_outputs(HTSAT), LSTOptions(preset="tiny", dim=768), (2.52, 0.67)),
        (
            *(stage_outputs(SWIN), stage_outputs(HTSAT)),
            LSTOptions(width_visual=568, width_audio=284, dim=128),
            (17.34, 4.36),
        ),
        (VIT, VIT, LSTOptions(), (25.58, 25.58)),
    ],
    ids=["official", "tiny", "matched", "LLP official", "LLP tiny", "LLP matched", "ViT"],
)
def test_parameters(visual, audio, options, millions):
    for layers, expected in zip((visual, audio), millions, strict=True):
        with on_meta():
            module, from_layer_1 = LST(with_embedding(layers), options), LST(layers, options)
        width = options.width(layers[-1])
        assert count(module) == closed_form(with_embedding(layers), width, options.dim)
        assert count(module) / 1e6 == pytest.approx(expected, abs=0.005)
        # neither the embedding's projection nor one gate
        assert count(module) - count(from_layer_1) == layers[0].width * width + width + 1


def test_layers_that_are_refused():
    choice = MethodChoice("lst", LSTOptions(drop_layers=("visual/s9b01", "visual/s1b01")))
    with pytest.raises(UsageError, match=r"lst\.drop_layers: no such layer is offered: visual/s9b01\n.*visual/s1b01"):
        choice.check_names((*HIERARCHICAL, *UNEVEN))
    names = tuple(layer.name for layer in HIERARCHICAL)
    with pytest.raises(UsageError, match="LST needs at least one layer after the patch embedding"):
        LST(with_embedding(HIERARCHICAL), LSTOptions(drop_layers=names))
    with pytest.raises(UsageError, match=r"visual/s2b02 is 16 wide, which a reduction of 32 leaves nothing of"):
        LST(HIERARCHICAL, LSTOptions(reduction=32))


def test_options_that_are_refused():
    with pytest.raises(OptionsError, match="reduction, width_visual and width_audio together"):
        LSTOptions(reduction=2, width_visual=8, width_audio=8)
    with pytest.raises(OptionsError, match="gate: Input should be 'learned' or 'sum'"):
        LSTOptions(gate="none")
