"""Equation 3.4 against a plain re-implementation, position by position."""

import itertools

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mti import MTI, InjectedTokens, MTIOptions
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import FORMS, make_tokens
from tests.methods.injection import inject, whole

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
    injected = InjectedTokens(LayerTokens(features[None], FLOATS)).inject(keys[None], softmax_over=axis)
    torch.testing.assert_close(whole(injected)[0], expected, rtol=1e-12, atol=1e-12)


def test_one_meta_token_adds_one_vector_to_every_position():
    mti = MTI(STAGES, DIM).double()
    tokens, visual, audio = random_tokens(), meta_tokens(1, 1), meta_tokens(1, 2)
    for place, (spec, got) in enumerate(zip(STAGES, mti(tokens, visual=visual, audio=audio), strict=True), start=1):
        added = mti.linears[f"cross{place}"](audio) + mti.linears[f"intra{place}"](visual)
        torch.testing.assert_close(whole(got), tokens[spec.name].codes + added, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("axis", "count"), list(itertools.product(["meta_tokens", "positions"], [1, 2])))
@pytest.mark.parametrize("form", FORMS)
def test_projected_tokens_and_gradients_equal_those_of_a_dense_injection(form, axis, count):
    """Two injections and a linear, on the codes of every form, against floats that are all added up."""
    generator = torch.Generator().manual_seed(5)
    tokens, results = make_tokens(form, 6, 12, 16), []
    keys = [torch.randn(6, k, 16, generator=generator, dtype=torch.float64) * 0.3 for k in (count, 3)]
    linear = torch.nn.Linear(16, 5).double()
    for dense in (False, True):
        first, second = leaves = [key.clone().requires_grad_() for key in keys]
        if dense:
            features = inject(inject(tokens.floats(torch.float64), first, softmax_over=axis), second, softmax_over=axis)
            projected = linear(features)
        else:
            injected = InjectedTokens(tokens).inject(first, softmax_over=axis).inject(second, softmax_over=axis)
            projected = injected.project(linear)
        loss = (projected * torch.linspace(-1, 1, projected.numel(), dtype=torch.float64).view_as(projected)).sum()
        results.append((projected, *torch.autograd.grad(loss, [*leaves, *linear.parameters()])))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12 * max(1.0, plain.abs().max().item()))


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
        torch.testing.assert_close(whole(got), expected, rtol=1e-12, atol=1e-12)


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
    changed = [not torch.equal(whole(got), tokens[s.name].codes) for s, got in zip(STAGES, updated, strict=True)]
    assert changed == [False, True, False, False]


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
