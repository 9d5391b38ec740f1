"""The compiled pooling of ``klt`` rows against attention on decoded tokens in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.kernels import klt
from mettle_cache.methods.kernels.cpu import klt_pooling
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.methods.kernels.cpu.planes import SLACK, expand_planes
from tests.methods.conftest import make_tokens
from tests.methods.kernels.cpu.test_pooling import assert_close, draw
from tests.methods.kernels.test_ops import EPS, pool_plainly

FORMS = ("klt", "klt cells")


@pytest.fixture(params=["of floats", "of bytes"])
def products(request, monkeypatch):
    choose(request.param, monkeypatch)


def choose(kind, monkeypatch):
    if kind == "of bytes" and not has_byte_tiles():
        pytest.skip("this processor multiplies no tiles of bytes")
    monkeypatch.setattr(klt_pooling, "has_byte_tiles", lambda: kind == "of bytes")


def check(tokens, queries, mixing, eps, d_context, d_mixed):
    """Outputs, the same from the backward pass, and gradients."""
    assert klt.choose_row_pooling(klt.make_rows(tokens, torch.float32, normed=eps is not None)) is klt_pooling
    leaves = [queries.double().requires_grad_()]
    leaves += [] if mixing is None else [mixing.double().requires_grad_()]
    plain = pool_plainly(tokens, leaves[0], leaves[1] if mixing is not None else None, eps, len(d_context))
    total = (plain[0].transpose(0, 1) * d_context).sum() + (plain[1] * d_mixed).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    pooled = klt.pool(tokens, queries, mixing, eps, len(d_context))
    found = klt.pool_backward(tokens, queries, mixing, eps, d_context, d_mixed)
    wanted = (plain[0].transpose(0, 1), plain[1])
    for first, again, expected in zip(pooled, (found.context, found.mixed), wanted, strict=True):
        assert_close(first, expected.detach())
        assert_close(again, expected.detach())
    for ours, expected in zip((found.queries, found.mixing), gradients, strict=False):
        assert_close(ours, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [None, EPS])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("contexts", [8, 4])
@pytest.mark.usefixtures("products")
def test_outputs_and_gradients_equal_plain_attention(form, eps, per_frame, contexts):
    tokens = make_tokens(form, 19, 36, 16)
    queries, mixing, *gradients = draw(19, 36, 16, 8, 2, per_frame=per_frame, contexts=contexts)
    check(tokens, queries, mixing, eps, *gradients)


@pytest.mark.parametrize("kind", ["of floats", "of bytes"])
@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    frames=st.integers(1, 40),
    cells=st.integers(1, 10),
    width=st.integers(1, 24),
    contexts=st.integers(0, 3),
    shared=st.integers(1, 3),
    mixers=st.integers(0, 3),
    norm=st.booleans(),
)
def test_any_shape(kind, form, frames, cells, width, contexts, shared, mixers, norm):
    with pytest.MonkeyPatch.context() as patch:
        choose(kind, patch)
        tokens = make_tokens(form, frames, 4 * cells, width)
        queries, mixing, *gradients = draw(frames, 4 * cells, width, contexts * shared, mixers, contexts=contexts)
        check(tokens, queries, mixing, EPS if norm else None, *gradients)


@settings(max_examples=30, deadline=None)
@given(planes=st.tuples(*[st.integers(0, 5)] * 4), rows=st.integers(0, 4), seed=st.integers(0, 99))
def test_planes_become_bytes(planes, rows, seed):
    form = KltFormat(8, (1, 1), 1, tuple(8 * number for number in planes))
    packed = torch.randint(0, 256, (2, rows, form.row_bytes), generator=torch.Generator().manual_seed(seed)).byte()
    centred = form.unpack(packed).float() - form.offsets()
    expanded = np.full(centred.numel() + SLACK + 8, 99, np.int8)
    expand_planes(packed.numpy(), form.planes, expanded)
    assert torch.equal(torch.from_numpy(expanded[: centred.numel()]).view(centred.shape).float() + 0.5, centred)
    assert (expanded[-8:] == 99).all()


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_threads_changes_no_bit(form):
    tokens, arguments = make_tokens(form, 70, 32, 24), draw(70, 32, 24, 8, 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rows = klt.make_rows(tokens, torch.float32, normed=True)
            basis = klt.Basis.of(tokens, torch.float32)
            found = klt_pooling.pool_rows(rows, basis.carry(arguments[0]), arguments[1], 8)
            results.append((found.components, found.sides))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(result, results[0], strict=True))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("form", FORMS)
def test_logits_far_apart_do_not_overflow(form):
    tokens = make_tokens(form, 3, 20, 16)
    queries = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)) * 1000
    context, _ = klt.pool(tokens, queries, None, None, 4)
    assert context.isfinite().all()


def test_layers_without_components_are_the_references():
    rows = klt.make_rows(make_tokens("klt0", 1, 4, 16), torch.float32, normed=True)
    assert klt.choose_row_pooling(rows) is klt.klt_rows
