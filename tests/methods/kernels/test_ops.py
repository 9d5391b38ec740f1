"""The absorbed pooling against plain softmax attention on decoded tokens, in float64."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels import ops, reference
from mettle_cache.methods.kernels.cpu import pooling
from mettle_cache.methods.kernels.distillation import Distillation, distil_tokens
from mettle_cache.methods.kernels.ops import absorbed_pooling, compile_kernels, pools_tokens
from mettle_cache.methods.kernels.projections import ProjectionWeights
from mettle_cache.methods.lcd import LCD, LCDOptions
from mettle_cache.methods.linear import LinearProbe
from mettle_cache.tokens import INT4, AffineFormat, LayerTokens
from tests.methods.conftest import FORMS, make_tokens

EPS = 1e-5


def pool_plainly(tokens, queries, mixing, eps, contexts=None):
    """The definition, with everything expanded; the contexts of queries that share one are added up at the end.

    Normalised tokens are those of a LayerNorm, but for klt those that the codes stand for, not normalised anew.
    """
    x = tokens.floats(torch.float64)
    attended = x if eps is None else tokens.normalised(torch.float64, eps=eps)
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
    piece_bytes=st.integers(1, 4000),
)
def test_any_shape_in_pieces_of_any_size(form, frames, count, half_width, contexts, shared, mixers, norm, piece_bytes):
    rng = torch.Generator().manual_seed(frames)
    width = 2 * half_width
    queries = torch.randn(contexts * shared, width, generator=rng, dtype=torch.float64)
    mixing = torch.randn(mixers, count, generator=rng, dtype=torch.float64) if mixers else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reference.PIECE_BYTES, "cpu", piece_bytes)
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


@dataclass(frozen=True)
class CellFormat:
    """Another package's codec: a row is a cell of two tokens, a byte names an entry of the layer's book of vectors."""

    name: str = "cells"
    code_dtype: torch.dtype = torch.uint8
    parts: tuple[str, ...] = ("length",)
    static: tuple[str, ...] = ("book",)
    affine: bool = False
    decoded: list[int] = field(default_factory=list, compare=False)

    def shape(self, tokens):
        return 2 * tokens.codes.shape[-2], tokens.static["book"].shape[-1]

    def unpack(self, codes):
        raise AssertionError("there is nothing to unpack")

    def floats(self, tokens, dtype):
        self.decoded.append(len(tokens.codes))
        vectors = tokens.static["book"].to(dtype)[tokens.codes.int()].flatten(-3, -2)
        return vectors * tokens.parts["length"].to(dtype).unsqueeze(-1)


def cells(frames=7, rows=5, width=6):
    rng = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 9, (frames, rows, 2), generator=rng, dtype=torch.uint8)
    parts = {"length": torch.rand(frames, 2 * rows, generator=rng).half() + 0.5}
    return LayerTokens(codes, CellFormat(), parts, {"book": torch.randn(9, width, generator=rng)})


@pytest.mark.parametrize("eps", [None, EPS])
def test_a_format_that_only_decodes_is_pooled_some_frames_at_a_time(eps, monkeypatch):
    monkeypatch.setitem(reference.PIECE_BYTES, "cpu", 2 * 10 * 6 * 8)
    tokens = cells()
    rng = torch.Generator().manual_seed(3)
    queries = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    mixing = torch.randn(2, 10, generator=rng, dtype=torch.float64)
    context, mixed = absorbed_pooling(tokens, queries.requires_grad_(), mixing.requires_grad_(), eps=eps, contexts=2)
    (context.sum() + mixed.square().sum()).backward()
    # forth and back, seven frames in twos
    assert tokens.format.decoded == [2, 2, 2, 1] * 2
    assert_same_function(tokens, queries.detach(), mixing.detach(), eps, contexts=2)


def test_every_part_of_a_format_is_kept_in_the_graph_and_no_float_of_its_tokens():
    tokens, saved = cells(), []
    queries = torch.randn(2, 6, requires_grad=True)
    values, out = torch.randn(2, 6, 6)
    weights = ProjectionWeights(values, torch.randn(6), out=out, out_bias=torch.randn(6))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t.clone()):
        output = distil_tokens(Distillation(tokens, queries, None, weights, heads=2, eps=None, contexts=2))
    output.sum().backward()
    kept = (
        tokens.codes,
        tokens.parts["length"],
        tokens.static["book"],
        queries,
        *(weight for weight in weights if weight is not None),
    )
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in kept}
    assert queries.grad.abs().sum() > 0


def test_the_first_implementation_that_fits_is_taken():
    int8, single = make_tokens("int8", 1, 4, 16), torch.zeros(1, 16)
    assert ops.choose_implementation(int8, single) is pooling
    for tokens, queries in (
        (int8, single.double()),
        (int8, single.to("meta")),
        (make_tokens("float64", 1, 4, 16), single),
        (cells(), single),
    ):
        assert ops.choose_implementation(tokens, queries) is reference


def test_compiled_is_what_a_format_means_and_not_what_its_bytes_look_like():
    int4, queries = make_tokens("int4", 1, 4, 16), torch.zeros(1, 16)
    assert pooling.fits(int4, queries)
    assert pooling.fits(replace(int4, format=replace(INT4, name="theirs")), queries)
    one_a_byte = replace(int4, format=AffineFormat("one a byte", torch.uint8))
    assert not pooling.fits(one_a_byte, torch.zeros(1, 8))
    assert not pooling.fits(cells(), torch.zeros(1, 6))


def test_kernels_are_compiled_ahead_for_each_kind_of_tokens_and_announced_once(monkeypatch):
    called, notes = [], []
    for way in (pooling, reference):
        for name in ("pool", "pool_backward", "norm_gradients"):
            whole = getattr(way, name)
            monkeypatch.setattr(way, name, lambda *given, n=name, f=whole: called.append(n) or f(*given))
    monkeypatch.setattr(pooling, "announced", lambda note, device: nullcontext(note("compiling")))
    int8, float16 = (
        make_tokens(form, 6, 9, 16).map(lambda part: part.unflatten(0, (2, 3))) for form in ("int8", "float16")
    )
    compile_kernels([int8, float16, int8], notes.append)
    assert called == ["pool", "pool_backward", "norm_gradients"] * 2
    compile_kernels([cells().map(lambda part: part.unflatten(0, (1, 7)))], notes.append)
    assert called[6:] == ["pool", "pool_backward", "norm_gradients"]
    assert notes == ["compiling"]


def test_a_model_pools_tokens_where_a_part_of_it_does():
    layers = [LayerSpec(modality="visual", stage=1, block=1, grid=(1, 3), tokens=3, width=16)]
    probe, distilling = LinearProbe(layers), LCD(layers, LCDOptions(dim=8))
    assert not pools_tokens(nn.Sequential(probe, nn.Linear(4, 4)))
    assert pools_tokens(nn.Sequential(probe, distilling))
