"""The compiled loops against plain attention in float64, on every form of tokens and every kind of product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.cpu import float_products, integer_products, pooling
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from tests.methods.conftest import make_tokens
from tests.methods.kernels.test_ops import EPS, pool_plainly

FORMS = ("float16", "float32", "int8", "int4")
PRODUCTS = ("of floats", "of bytes")


@pytest.fixture(params=PRODUCTS)
def products(request, monkeypatch):
    """Both kinds of products where the processor has both: the other kind is that of every other machine."""
    choose(request.param, monkeypatch)


def choose(kind, monkeypatch):
    if kind == "of bytes" and not has_byte_tiles():
        pytest.skip("this processor multiplies no tiles of bytes")
    monkeypatch.setattr(pooling, "has_byte_tiles", lambda: kind == "of bytes")


def draw(frames, count, width, asked, mixers, *, per_frame=False, contexts=None):
    rng = torch.Generator().manual_seed(frames * 100 + count)
    queries = torch.randn((frames, asked, width) if per_frame else (asked, width), generator=rng) * 0.1
    mixing = torch.randn(mixers, count, generator=rng) if mixers else None
    d_context = torch.randn(asked if contexts is None else contexts, frames, width, generator=rng)
    return queries, mixing, d_context, torch.randn(frames, mixers, width, generator=rng)


def assert_close(ours, plain):
    assert ours.dtype == torch.float32
    limit = 1e-4 * max(1.0, plain.abs().max().item() if plain.numel() else 0)
    assert (ours.double() - plain).abs().max().item() < limit if plain.numel() else ours.numel() == 0


def check(tokens, queries, mixing, eps, d_context, d_mixed):
    """Outputs, and the backward pass's outputs and gradients, against autograd on expanded float64 tokens."""
    leaves = [queries.double().requires_grad_()]
    leaves += [] if mixing is None else [mixing.double().requires_grad_()]
    plain = pool_plainly(tokens, leaves[0], leaves[1] if mixing is not None else None, eps, len(d_context))
    gradients = torch.autograd.grad(
        (plain[0].transpose(0, 1) * d_context).sum() + (plain[1] * d_mixed).sum(),
        leaves,
        allow_unused=True,
        materialize_grads=True,
    )
    assert pooling.fits(tokens, queries)
    context, mixed = pooling.pool(tokens, queries, mixing, eps, len(d_context))
    found = pooling.pool_backward(tokens, queries, mixing, eps, d_context, d_mixed)
    wanted = (plain[0].transpose(0, 1), plain[1])
    for first, again, expected in zip((context, mixed), (found.context, found.mixed), wanted, strict=True):
        assert_close(first, expected.detach())
        assert_close(again, expected.detach())
    for ours, expected in zip((found.queries, found.mixing), gradients, strict=False):
        assert_close(ours, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [None, EPS])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("contexts", [8, 4, 1])
@pytest.mark.usefixtures("products")
def test_outputs_and_gradients_equal_plain_attention(form, eps, per_frame, contexts):
    tokens = make_tokens(form, 19, 33, 16)
    queries, mixing, *gradients = draw(19, 33, 16, 8, 2, per_frame=per_frame, contexts=contexts)
    check(tokens, queries, mixing, eps, *gradients)


@pytest.mark.parametrize("kind", PRODUCTS)
@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    frames=st.integers(1, 20),
    count=st.integers(1, 40),
    half_width=st.integers(1, 24),
    contexts=st.integers(0, 5),
    shared=st.integers(1, 3),
    mixers=st.integers(0, 5),
    norm=st.booleans(),
)
def test_any_shape(kind, form, frames, count, half_width, contexts, shared, mixers, norm):
    with pytest.MonkeyPatch.context() as patch:
        choose(kind, patch)
        check_shape(form, frames, count, half_width, (contexts * shared, contexts), mixers, norm=norm)


def check_shape(form, frames, count, half_width, asked, mixers, *, norm):
    tokens = make_tokens(form, frames, count, 2 * half_width)
    queries, mixing, *gradients = draw(frames, count, 2 * half_width, asked[0], mixers, contexts=asked[1])
    # one channel pair may have next to no variance, and its inverse deviation then magnifies every rounding
    check(tokens, queries, mixing, 1e-2 if norm else None, *gradients)


@pytest.mark.usefixtures("products")
def test_the_number_of_threads_changes_no_bit():
    tokens = make_tokens("int8", 50, 30, 24)
    arguments = draw(50, 30, 24, 8, 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = pooling.pool_backward(tokens, *arguments[:2], EPS, *arguments[2:])
            results.append((found.context, found.mixed, found.queries, found.mixing))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(result, results[0], strict=True))


@pytest.mark.usefixtures("products")
def test_logits_far_apart_do_not_overflow():
    tokens = make_tokens("int8", 3, 20, 16)
    queries = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)) * 1000
    check(tokens, queries, None, None, torch.zeros(4, 3, 16), torch.zeros(3, 0, 16))


@pytest.mark.usefixtures("products")
def test_what_is_not_a_number_stays_so():
    tokens = make_tokens("int8", 1, 8, 16)
    queries = torch.randn(2, 16)
    queries[0, 3] = float("nan")
    context, _ = pooling.pool(tokens, queries, None, EPS, 2)
    assert context[0].isnan().all()
    assert context[1].isfinite().all()


@pytest.mark.usefixtures("products")
def test_codes_that_are_no_whole_block_of_memory_are_read_rightly():
    tokens = make_tokens("int8", 6, 12, 16)
    queries, *_ = draw(6, 12, 16, 4, 0)
    every_second = tokens[::2]
    ours, _ = pooling.pool(every_second, queries, None, EPS, 4)
    theirs, _ = pooling.pool(tokens, queries, None, EPS, 4)
    assert torch.equal(ours, theirs[:, ::2])


def test_it_is_for_single_precision_on_a_cpu():
    tokens = make_tokens("int8", 1, 4, 16)
    assert pooling.fits(tokens, torch.empty(1, 16))
    assert not pooling.fits(tokens, torch.empty(1, 16, dtype=torch.float64))
    assert not pooling.fits(tokens, torch.empty(1, 16, device="meta"))
    assert not pooling.fits(make_tokens("float64", 1, 4, 16), torch.empty(1, 16))


def test_which_products_are_taken(monkeypatch):
    for has_tiles in (False, True):
        monkeypatch.setattr(pooling, "has_byte_tiles", lambda answer=has_tiles: answer)
        taken = {form: pooling.kernels_of(make_tokens(form, 1, 4, 16)) for form in FORMS}
        assert taken["float16"] is taken["float32"] is float_products
        assert taken["int8"] is taken["int4"] is (integer_products if has_tiles else float_products)


def largest(errors):
    return errors.abs().max()


def typical(errors):
    return errors.square().mean() ** 0.5


@pytest.mark.parametrize(("mixers", "contexts", "size"), [(2, 16, largest), (2, 16, typical), (1, 8, typical)])
@pytest.mark.usefixtures("products")
def test_a_full_size_layer_is_as_exact_as_single_precision(mixers, contexts, size):
    """Several parts, blocks that are cut off, and offsets that are large beside what varies, as backbones have them."""
    tokens = make_tokens("int8", 30, 144, 192)
    queries, mixing, *gradients = draw(30, 144, 192, 16, mixers, contexts=contexts)
    found = pooling.pool_backward(tokens, queries, mixing, EPS, *gradients)
    exact = reference.pool_backward(
        tokens,
        *(part.double() for part in (queries, mixing)),
        EPS,
        *(part.double() for part in gradients),
    )
    single = reference.pool_backward(tokens, queries, mixing, EPS, *gradients)
    for name in ("context", "mixed", "queries", "mixing"):
        ours, theirs = (size(getattr(result, name).double() - getattr(exact, name)) for result in (found, single))
        assert ours < 2 * theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("products")
def test_the_reference_agrees_in_single_precision(form):
    """The path of a GPU, run here."""
    tokens = make_tokens(form, 9, 40, 32)
    arguments = draw(9, 40, 32, 8, 1, contexts=4)
    ours = pooling.pool_backward(tokens, *arguments[:2], EPS, *arguments[2:])
    theirs = reference.pool_backward(tokens, *arguments[:2], EPS, *arguments[2:])
    for name in ("context", "mixed", "queries", "mixing"):
        assert_close(getattr(ours, name), getattr(theirs, name).double())
