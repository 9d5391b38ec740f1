import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.linear import LinearOptions, LinearProbe, mean_token
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, pack_int4
from tests.methods.conftest import KLT_FORMS, make_tokens

LAYERS = [
    LayerSpec(modality="visual", stage=stage, block=1, grid=(2, 3), tokens=6, width=8 * stage) for stage in (1, 2)
]


def stored(codec, generator):
    shape = (2, 4, 6, 16)
    if codec == "float":
        return LayerTokens(torch.randn(shape, generator=generator, dtype=torch.float64), FLOATS)
    low, high = (-128, 128) if codec == "int8" else (0, 16)
    codes = torch.randint(low, high, shape, generator=generator)
    scale = torch.rand(2, 4, 16, generator=generator, dtype=torch.float64) + 0.1
    zero = torch.randn(2, 4, 16, generator=generator, dtype=torch.float64)
    parts = {"scale": scale, "zero": zero}
    return (
        LayerTokens(codes.to(torch.int8), INT8, parts)
        if codec == "int8"
        else LayerTokens(pack_int4(codes), INT4, parts)
    )


@pytest.mark.parametrize("codec", ["float", "int8", "int4"])
def test_mean_of_the_codes_is_the_mean_of_the_decoded_tokens(codec):
    tokens = stored(codec, torch.Generator().manual_seed(0))
    expected = tokens.floats(torch.float64).mean(dim=-2)
    torch.testing.assert_close(mean_token(tokens, torch.float64), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", KLT_FORMS)
def test_mean_of_klt_codes_is_the_mean_of_the_decoded_tokens(form):
    tokens = make_tokens(form, 6, 12, 16)
    expected = tokens.floats(torch.float64).mean(dim=-2)
    torch.testing.assert_close(mean_token(tokens, torch.float64), expected, rtol=0, atol=1e-12)
    clips = tokens.map(lambda part: part.unflatten(0, (2, 3)))
    assert torch.equal(mean_token(clips, torch.float64), mean_token(tokens, torch.float64).unflatten(0, (2, 3)))


def test_float16_tokens_are_averaged_in_single_precision():
    tokens = LayerTokens(torch.full((1, 1, 4096, 1), 60000.0, dtype=torch.float16), FLOATS)
    assert mean_token(tokens).item() == pytest.approx(60000, rel=1e-3)


def test_probe_reads_the_last_layer_only():
    torch.manual_seed(0)
    probe = LinearProbe(LAYERS, LinearOptions(dim=5))
    tokens = stored("int8", torch.Generator().manual_seed(1))
    result = probe({LAYERS[1].name: tokens})
    expected = tokens.floats().mean(-2) @ probe.linear.weight.T + probe.linear.bias
    torch.testing.assert_close(result, expected)
    assert probe.output_dim == 5


def test_without_a_width_the_probe_keeps_the_layers():
    assert LinearProbe(LAYERS, LinearOptions(dim="none")).output_dim == 16


def test_no_layers_are_refused():
    with pytest.raises(UsageError, match="a linear probe needs a layer"):
        LinearProbe([])
