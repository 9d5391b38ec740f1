"""Equation 3.4 against a plain re-implementation, position by position."""

import itertools

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mti import MTI, MTIOptions, decode_stages, inject
from mettle_cache.store.format.codecs import encode_layers, get_codec
from mettle_cache.tokens import FLOATS, LayerTokens

DIM = 6


def stage(number, side, width):
    return LayerSpec(modality="visual", stage=number, block=1, grid=(side, side), tokens=side * side, width=width)


STAGES = (stage(1, 4, 2), stage(2, 3, 4), stage(3, 2, 6), stage(4, 1, 6))


def random_tokens(stages=STAGES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return {
        s.name: LayerTokens(torch.randn(2, 3, s.tokens, s.width, generator=generator, dtype=dtype), FLOATS)
        for s in stages
    }


def meta_tokens(count, seed):
    return torch.randn(2, 3, count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_injection(features, keys, axis):
    """Equation 3.4 for one frame, with loops: ``features`` and ``keys`` are lists of vectors."""
    scores = [[sum(a * b for a, b in zip(x, m, strict=True)) for m in keys] for x in features]
    exponents = [[float(torch.exp(torch.tensor(s, dtype=torch.float64))) for s in row] for row in scores]
    updated = []
    for n, x in enumerate(features):
        weights = []
        for k in range(len(keys)):
            total = sum(exponents[n]) if axis == "meta_tokens" else sum(row[k] for row in exponents)
            weights.append(exponents[n][k] / total)
        updated.append([v + sum(w * m[c] for w, m in zip(weights, keys, strict=True)) for c, v in enumerate(x)])
    return updated


@pytest.mark.parametrize("axis", ["meta_tokens", "positions"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_step_is_equation_3_4(axis, count):
    features, keys = torch.randn(5, 4, dtype=torch.float64), torch.randn(count, 4, dtype=torch.float64)
    expected = torch.tensor(plain_injection(features.tolist(), keys.tolist(), axis), dtype=torch.float64)
    torch.testing.assert_close(inject(features, keys, softmax_over=axis), expected, rtol=1e-12, atol=1e-12)


def test_one_meta_token_adds_one_vector_to_every_position():
    mti = MTI(STAGES, DIM).double()
    tokens, visual, audio = random_tokens(), meta_tokens(1, 1), meta_tokens(1, 2)
    for place, (spec, got) in enumerate(zip(STAGES, mti(tokens, visual=visual, audio=audio), strict=True), start=1):
        added = mti.linears[f"cross{place}"](audio) + mti.linears[f"intra{place}"](visual)
        torch.testing.assert_close(got, tokens[spec.name].codes + added, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("axis", "count"), list(itertools.product(["meta_tokens", "positions"], [1, 2])))
def test_gradients_of_a_step(axis, count):
    features = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, count, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, m: inject(x, m, softmax_over=axis), (features, keys))


@pytest.mark.parametrize("order", ["cross_first", "intra_first"])
@pytest.mark.parametrize(("cross", "intra"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_switches_of_table_11_and_the_order(order, cross, intra):
    mti = MTI(STAGES, DIM, MTIOptions(cross=cross, intra=intra, order=order)).double()
    tokens, visual, audio = random_tokens(), meta_tokens(2, 1), meta_tokens(3, 2)
    steps = [("cross", audio)] * cross + [("intra", visual)] * intra
    if order == "intra_first":
        steps.reverse()
    for place, (spec, got) in enumerate(zip(STAGES, mti(tokens, visual=visual, audio=audio), strict=True), start=1):
        expected = tokens[spec.name].codes
        for source, given in steps:
            keys = mti.linears[f"{source}{place}"](given)
            expected = expected + torch.einsum(
                "btnk,btkd->btnd", torch.softmax(torch.einsum("btnd,btkd->btnk", expected, keys), -1), keys
            )
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_parameters_are_a_linear_for_each_modality_and_stage_of_another_width():
    def count(**options):
        return sum(p.numel() for p in MTI(STAGES, DIM, MTIOptions(**options)).parameters())

    narrow = (DIM + 1) * (2 + 4)
    assert count() == 2 * narrow
    assert count(identity=False) == 2 * (narrow + 2 * (DIM + 1) * 6)
    assert count(cross=False) == narrow
    assert count(inject_into=(1,)) == 2 * (DIM + 1) * 2
    assert count(cross=False, intra=False) == 0


def test_other_stages_pass_through():
    mti = MTI(STAGES, DIM, MTIOptions(inject_into=(2,))).double()
    tokens = random_tokens()
    updated = mti(tokens, visual=meta_tokens(1, 1), audio=meta_tokens(1, 2))
    changed = [not torch.equal(got, tokens[s.name].codes) for s, got in zip(STAGES, updated, strict=True)]
    assert changed == [False, True, False, False]


@pytest.mark.parametrize("codec", ["float16", "int8", "int4"])
def test_codes_are_decoded(codec):
    floats = {name: layer.codes.flatten(0, 1).float() for name, layer in random_tokens().items()}
    tokens = encode_layers(floats, get_codec(codec))
    mti = MTI(STAGES, DIM)
    visual, audio = (meta_tokens(1, seed).flatten(0, 1).float() for seed in (1, 2))
    decoded = {name: LayerTokens(layer.floats(), FLOATS) for name, layer in tokens.items()}
    for got, expected in zip(
        mti(tokens, visual=visual, audio=audio), mti(decoded, visual=visual, audio=audio), strict=True
    ):
        assert torch.equal(got, expected)
    for spec, got in zip(STAGES, decode_stages(STAGES, tokens), strict=True):
        assert torch.equal(got, decoded[spec.name].codes)


def test_what_mti_refuses():
    with pytest.raises(UsageError, match="order: Input should be 'cross_first' or 'intra_first', not \"last\""):
        MTI(STAGES, DIM, MTIOptions(order="last"))
    with pytest.raises(UsageError, match="softmax_over: Input should be 'meta_tokens' or 'positions'"):
        MTI(STAGES, DIM, MTIOptions(softmax_over="channels"))
    with pytest.raises(UsageError, match="inject_into: Input should be less than or equal to 4, not 5"):
        MTI(STAGES, DIM, MTIOptions(inject_into=(5,)))
    with pytest.raises(UsageError, match="inject_into must name at least one level, each once"):
        MTI(STAGES, DIM, MTIOptions(inject_into=(2, 2)))
    with pytest.raises(UsageError, match=r"MTI into stages \[1, 4\]: there are 3 stages, counted from 1"):
        MTI(STAGES[:3], DIM, MTIOptions(inject_into=(1, 4)))
    with pytest.raises(UsageError, match="there are 0 stages"):
        MTI([], DIM)
