"""``klt`` layers, pooled in the space of their components, against attention on decoded tokens in float64.

The common cases are those of test_ops.py; here are what only klt has: cells, planes, a shift, what is kept and made.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.kernels import klt, ops, reference
from mettle_cache.methods.kernels.dense import token_products
from mettle_cache.methods.kernels.ops import absorbed_pooling
from tests.methods.conftest import KLT_FORMS, make_tokens
from tests.methods.kernels.test_ops import EPS, assert_same_function, pool_plainly


def vectors(form, per_frame, *, frames, count, width, asked=4, mixers=2):
    rng = torch.Generator().manual_seed(1)
    queries = torch.randn((frames, asked, width) if per_frame else (asked, width), generator=rng, dtype=torch.float64)
    mixing = torch.randn(mixers, count, generator=rng, dtype=torch.float64) if mixers else None
    return queries * 0.3, mixing


@pytest.mark.parametrize("eps", [None, EPS])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("contexts", [None, 2])
@pytest.mark.parametrize("form", KLT_FORMS)
def test_outputs_and_gradients_equal_attention_on_decoded_tokens(form, eps, per_frame, contexts):
    tokens = make_tokens(form, 5, 24, 16)
    assert (tokens.format.cell == 2) == (form == "klt cells")
    queries, mixing = vectors(form, per_frame, frames=5, count=24, width=16)
    assert_same_function(tokens, queries, mixing, eps, contexts)


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(KLT_FORMS),
    frames=st.integers(1, 5),
    cells=st.integers(1, 6),
    width=st.integers(1, 20),
    asked=st.integers(0, 3),
    mixers=st.integers(0, 2),
    norm=st.booleans(),
    piece_bytes=st.integers(1, 4000),
)
def test_any_shape_in_pieces_of_any_size(form, frames, cells, width, asked, mixers, norm, piece_bytes):
    queries, mixing = vectors(
        form, frames % 2 == 0, frames=frames, count=4 * cells, width=width, asked=asked, mixers=mixers
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reference.PIECE_BYTES, "cpu", piece_bytes)
        assert_same_function(make_tokens(form, frames, 4 * cells, width), queries, mixing, EPS if norm else None)


def test_a_norm_sees_tokens_as_they_decode_and_does_not_normalise_them_anew():
    tokens = make_tokens("klt", 3, 12, 16)
    queries, _ = vectors("klt", False, frames=3, count=12, width=16)
    context, _ = absorbed_pooling(tokens, queries, eps=EPS)
    anew = torch.nn.functional.layer_norm(tokens.floats(torch.float64), (16,), eps=EPS)
    assert torch.allclose(context, pool_plainly(tokens, queries, None, EPS)[0], rtol=1e-12)
    assert not torch.allclose(context, (queries @ anew.mT).softmax(-1) @ anew, rtol=1e-2)


@pytest.mark.parametrize("count", [12, 16])
def test_the_order_of_places_is_undone(count):
    cells = KltFormat(8, (2, count // 2), count, (0, 0, 0, 0), 2)
    rows = torch.arange(3 * count).view(3, count)
    ordered = klt.by_places(cells, rows)
    # the first places of all cells are every other token of the first row
    assert ordered[0, : count // 4].tolist() == list(range(0, count // 2, 2))
    assert torch.equal(klt.from_places(cells, ordered), rows)


class LargestFloats(TorchDispatchMode):
    """Counts the floats of the largest tensor that anything gives."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("form", KLT_FORMS)
@pytest.mark.parametrize("eps", [None, EPS])
def test_nothing_of_a_layers_size_becomes_floats(form, eps, monkeypatch):
    frames, count, width = 40, 256, 48
    monkeypatch.setitem(reference.PIECE_BYTES, "cpu", 4 * 2 * count * width)
    tokens = make_tokens(form, frames, count, width)
    queries = torch.randn(2, width, requires_grad=True)
    mixing = torch.randn(1, count, requires_grad=True)
    with LargestFloats() as seen:
        context, mixed = absorbed_pooling(tokens, queries, mixing, eps=eps)
        (context.sum() + mixed.sum()).backward()
    assert 0 < seen.largest < frames * count * width / 8


@pytest.mark.parametrize("form", [*KLT_FORMS, "int8"])
def test_nothing_of_a_layers_size_becomes_floats_for_a_linear_on_every_token(form, monkeypatch):
    frames, count, width = 40, 256, 48
    monkeypatch.setitem(reference.PIECE_BYTES, "cpu", 4 * 2 * count * width)
    tokens = make_tokens(form, frames, count, width)
    weight = torch.randn(4, width, requires_grad=True)
    with LargestFloats() as seen:
        products = token_products(tokens, weight)
        products.sum().backward()
    assert products.numel() <= seen.largest < frames * count * width / 8


def test_static_arrays_are_kept_by_reference():
    tokens, saved = make_tokens("klt cells", 4, 12, 16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        absorbed_pooling(tokens, torch.randn(2, 16, requires_grad=True), eps=EPS)
    kept = {t.data_ptr() for t in saved}
    assert {array.data_ptr() for array in (*tokens.static.values(), *tokens.parts.values(), tokens.codes)} <= kept
    assert len(kept) == len(tokens.static) + len(tokens.parts) + 2


def test_a_basis_may_have_more_vectors_than_a_layer_keeps():
    tokens = make_tokens("klt", 3, 12, 16)
    more = {name: torch.cat([array, array], -1) for name, array in tokens.static.items()}
    queries, mixing = vectors("klt", False, frames=3, count=12, width=16)
    for ours, expected in zip(
        absorbed_pooling(replace(tokens, static=more), queries, mixing),
        absorbed_pooling(tokens, queries, mixing),
        strict=True,
    ):
        assert torch.equal(ours, expected)


def test_klt_tokens_take_this_way():
    assert ops.choose_implementation(make_tokens("klt", 1, 4, 16), torch.zeros(1, 16)) is klt
