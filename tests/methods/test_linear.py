import pytest
import torch
from torch.nn.functional import layer_norm

from mettle_cache.errors import OptionsError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.direct import DirectOptions
from mettle_cache.methods.linear import LinearOptions, LinearProbe
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.registry import MethodChoice
from tests.methods.probed import LAYERS, clip_tokens, swin_and_htsat

VISUAL = LAYERS[:2]


def test_probe_reads_the_last_layer_only():
    torch.manual_seed(0)
    probe = LinearProbe(VISUAL, LinearOptions(dim=5))
    tokens = clip_tokens("int8")[VISUAL[1].name]
    result = probe({VISUAL[1].name: tokens})
    expected = tokens.floats().mean(-2) @ probe.linear.weight.T + probe.linear.bias
    torch.testing.assert_close(result, expected)
    assert probe.output_dim == 5


def test_without_a_width_the_probe_keeps_the_layers():
    assert LinearProbe(VISUAL, LinearOptions(dim="none")).output_dim == 16


def test_norms_are_those_of_the_modality(form):
    probe = MethodChoice("linear", LinearOptions(dim=5, norm_visual=True)).build(LAYERS).double()
    tokens = clip_tokens(form)
    got = probe(tokens)
    seen, heard = (tokens[layer.name] for layer in (LAYERS[1], LAYERS[3]))
    if not form.startswith("klt"):
        normed = layer_norm(seen.floats(torch.float64), (16,), eps=1e-5).mean(-2)
        torch.testing.assert_close(got.visual, probe.visual.linear(normed), rtol=0, atol=1e-11)
    assert torch.equal(got.visual, probe.visual.linear(mean_token(seen, torch.float64, norm=True)))
    assert torch.equal(got.audio, probe.audio.linear(mean_token(heard, torch.float64)))


def test_the_identity_is_direct_before_the_first_step():
    options = LinearOptions(dim="none", init="identity", norm_visual=True)
    linear = MethodChoice("linear", options).build(LAYERS)
    direct = MethodChoice("direct", DirectOptions()).build(LAYERS)
    tokens = clip_tokens("int8")
    for ours, theirs in zip(_both(linear(tokens)), _both(direct(tokens)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert all(parameter.requires_grad for parameter in linear.parameters())


def test_parameters_are_those_of_the_baseline():
    """1536^2 + 768^2 and biases: 2.95 M at Swin-V2-L with HTS-AT; 4.72 M with a shared Swin."""

    def count(layers):
        with torch.device("meta"):
            method = MethodChoice("linear", LinearOptions(dim="none")).build(layers)
        return sum(parameter.numel() for parameter in method.parameters())

    assert count(swin_and_htsat()) == 1536**2 + 1536 + 768**2 + 768 == 2_951_424
    shared = [layer for layer in swin_and_htsat() if layer.modality == "visual"]
    shared += [LayerSpec(**{**vars(layer), "modality": "audio"}) for layer in shared]
    assert count(shared) == 2 * (1536**2 + 1536) == 4_721_664


@pytest.mark.parametrize("dim", [256, 16])
def test_an_identity_of_another_width_is_refused(dim):
    with pytest.raises(
        OptionsError, match=f"init = 'identity' keeps the layer's width, so dim must be 'none', not {dim}"
    ):
        LinearOptions(dim=dim, init="identity")


def test_no_layers_are_refused():
    with pytest.raises(UsageError, match="a linear probe needs a layer"):
        LinearProbe([])


def _both(meta_tokens):
    return meta_tokens.visual, meta_tokens.audio
