"""The absorbed pooling against plain softmax attention on decoded tokens, in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.ops import absorbed_pooling
from tests.methods.conftest import FORMS, make_tokens

EPS = 1e-5


def pool_plainly(tokens, queries, mixing, eps, contexts=None):
    """The definition, with everything expanded; the contexts of queries that share one are added up at the end."""
    x = tokens.floats(torch.float64)
    attended = x if eps is None else torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)
    queries = queries.expand(len(x), -1, -1)
    context = (queries @ attended.mT).softmax(-1) @ attended
    if contexts:
        context = context.unflatten(1, (-1, contexts)).sum(1)
    return context, x.new_empty(len(x), 0, x.shape[-1]) if mixing is None else mixing @ x


def pool_absorbed(tokens, queries, mixing, eps, contexts):
    return absorbed_pooling(tokens, queries, mixing, eps=eps, contexts=contexts)


def assert_same_function(tokens, queries, mixing, eps, contexts=None):
    results = []
    for pool in (pool_absorbed, pool_plainly):
        leaves = [part.detach().clone().requires_grad_() for part in (queries, mixing) if part is not None]
        context, mixed = pool(tokens, leaves[0], leaves[1] if mixing is not None else None, eps, contexts)
        weights = torch.linspace(-1, 1, context.numel(), dtype=torch.float64).view_as(context)
        ((context * weights).sum() + (mixed * mixed).sum()).backward()
        results.append((context.detach(), mixed.detach(), *(leaf.grad for leaf in leaves)))
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(
            ours, plain, rtol=1e-12, atol=1e-12 * max(1.0, plain.abs().max().item() if plain.numel() else 0)
        )


@pytest.mark.parametrize("eps", [None, EPS])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("contexts", [None, 8, 4, 1])
def test_outputs_and_gradients_equal_plain_attention(form, eps, per_frame, contexts):
    rng = torch.Generator().manual_seed(1)
    shape = (5, 8, 16) if per_frame else (8, 16)
    queries = torch.randn(shape, generator=rng, dtype=torch.float64) * 0.3
    mixing = torch.randn(2, 33, generator=rng, dtype=torch.float64)
    assert_same_function(make_tokens(form, 5, 33, 16), queries, mixing, eps, contexts)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    frames=st.integers(1, 7),
    count=st.integers(1, 40),
    half_width=st.integers(1, 12),
    contexts=st.integers(0, 3),
    shared=st.integers(1, 3),
    mixers=st.integers(0, 3),
    norm=st.booleans(),
    block_bytes=st.integers(1, 4000),
)
def test_any_shape_in_blocks_of_any_size(form, frames, count, half_width, contexts, shared, mixers, norm, block_bytes):
    rng = torch.Generator().manual_seed(frames)
    width = 2 * half_width
    queries = torch.randn(contexts * shared, width, generator=rng, dtype=torch.float64)
    mixing = torch.randn(mixers, count, generator=rng, dtype=torch.float64) if mixers else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reference.BLOCK_BYTES, "cpu", block_bytes)
        assert_same_function(make_tokens(form, frames, count, width), queries, mixing, EPS if norm else None, contexts)


def test_nothing_of_the_tokens_size_is_kept():
    """Codes are kept as they are; beside them, the caller's own vectors."""
    tokens = make_tokens("int8", 4, 64, 32)
    queries = torch.randn(8, 32, requires_grad=True)
    mixing = torch.randn(1, 64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        absorbed_pooling(tokens, queries, mixing, eps=EPS)
    given = (tokens.codes, tokens.scale, tokens.zero, queries, mixing)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in given}


def test_large_offsets_do_not_spoil_float32():
    """Zero points near the codec's bound: the expanded second moment must not cancel."""
    tokens = make_tokens("int8", 2, 20, 16)
    far = replace(tokens, parts={**tokens.parts, "zero": torch.full_like(tokens.zero, 2000)})
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    context, _ = absorbed_pooling(far, queries, eps=EPS)
    plain, _ = pool_plainly(far, queries.double(), None, EPS)
    assert (context - plain).abs().max() < 1e-4 * plain.abs().max()
