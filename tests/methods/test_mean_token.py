"""The mean token of codes is that of decoded tokens, with and without a norm before it."""

import pytest
import torch
from torch.nn.functional import layer_norm

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.mean_token import NORM_EPS, mean_token
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, pack_int4
from tests.methods.conftest import KLT_FORMS, make_tokens


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


def test_with_a_norm_each_token_is_normalised_before_the_mean(form):
    tokens = make_tokens(form, 6, 12, 16)
    if isinstance(tokens.format, KltFormat):
        normed = tokens.normalised(torch.float64)  # klt stores normalised tokens
    else:
        normed = layer_norm(tokens.floats(torch.float64), (16,), eps=NORM_EPS)
    clips = tokens.map(lambda part: part.unflatten(0, (2, 3)))
    got = mean_token(clips, torch.float64, norm=True)
    torch.testing.assert_close(got, normed.mean(-2).unflatten(0, (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("form", ["int8", "klt"])
def test_autocast_changes_nothing(form, norm):
    tokens = make_tokens(form, 6, 12, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_token(tokens, norm=norm)
    assert found.dtype == torch.float32
    assert torch.equal(found, mean_token(tokens, norm=norm))
