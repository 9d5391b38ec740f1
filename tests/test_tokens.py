"""Tokens and the formats that they carry, one of another package's among them."""

import pickle
from dataclasses import dataclass, replace

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, TokenBatch, pack_int4, unpack_int4

B, T, N, D = 2, 3, 8, 6


@dataclass(frozen=True)
class CellFormat:
    """A row is the sum of a cell of four tokens; a token is its share of it times its channel's weight."""

    name: str = "cells"
    code_dtype: torch.dtype | None = torch.int16
    parts: tuple[str, ...] = ("share",)
    static: tuple[str, ...] = ("weights",)
    affine: bool = False

    def shape(self, tokens):
        return tokens.codes.shape[-2] * 4, len(tokens.static["weights"])

    def unpack(self, codes):
        return codes

    def floats(self, tokens, dtype):
        whole = tokens.codes.to(dtype).repeat_interleave(4, dim=-2)
        return whole * tokens.parts["share"].to(dtype).unsqueeze(-1) * tokens.static["weights"].to(dtype)


def cells():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-900, 900, (B, T, N // 4, D), generator=generator).to(torch.int16)
    share = torch.rand(B, T, N, generator=generator)
    return LayerTokens(codes, CellFormat(), {"share": share}, {"weights": torch.arange(1.0, D + 1)})


def affine(form):
    generator = torch.Generator().manual_seed(1)
    low, high = (-128, 128) if form is INT8 else (0, 16)
    values = torch.randint(low, high, (B, T, N, D), generator=generator)
    codes = values.to(torch.int8) if form is INT8 else pack_int4(values)
    scale, zero = torch.rand(B, T, D, generator=generator), torch.randn(B, T, D, generator=generator)
    return LayerTokens(codes, form, {"scale": scale, "zero": zero}), scale[:, :, None] * (values + zero[:, :, None])


def every_kind():
    floats = torch.randn(B, T, N, D, generator=torch.Generator().manual_seed(2))
    return {"floats": LayerTokens(floats, FLOATS), "int8": affine(INT8)[0], "int4": affine(INT4)[0], "cells": cells()}


KINDS = every_kind()


@pytest.mark.parametrize("form", [INT8, INT4], ids=lambda form: form.name)
def test_an_affine_token_is_its_scale_times_code_and_zero(form):
    tokens, expected = affine(form)
    assert torch.allclose(tokens.floats(), expected, rtol=0, atol=1e-5)


def test_floats_are_the_tokens_of_any_floating_point_type():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        codes = torch.linspace(-1, 1, N * D).reshape(1, N, D).to(dtype)
        assert torch.equal(LayerTokens(codes, FLOATS).floats(), codes.float())


def test_a_row_may_be_a_cell_of_tokens():
    tokens = cells()
    value = tokens.floats(torch.float64)[1, 2, 5, 3]
    expected = tokens.codes[1, 2, 1, 3].double() * tokens.parts["share"][1, 2, 5].double() * 4
    assert torch.isclose(value, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_know_their_number_and_width_whatever_is_stored(kind):
    tokens = KINDS[kind]
    assert (tokens.count, tokens.width) == (N, D)
    assert tokens.floats().shape == (B, T, N, D)


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_the_leading_axes_changes_the_decoded_tokens_alike(kind):
    tokens, floats = KINDS[kind], KINDS[kind].floats()
    assert torch.equal(tokens[1].floats(), floats[1])
    assert torch.equal(tokens[0:1].floats(), floats[0:1])
    assert torch.equal(tokens[torch.tensor([1, 0, 1])].floats(), floats[[1, 0, 1]])
    flat = tokens.flatten_frames()
    assert torch.equal(flat.floats(), floats.flatten(0, 1))
    assert flat.codes.data_ptr() == tokens.codes.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_moving_moves_everything(kind):
    moved = KINDS[kind].to("meta")
    assert all(array.is_meta for array in (moved.codes, *moved.parts.values(), *moved.static.values()))


def test_static_arrays_go_to_a_device_once():
    """They belong to all batches of a layer, whose own tensors are others every time."""
    batch = cells()
    other = replace(batch, codes=batch.codes.clone())
    weights = [tokens.to("meta").static["weights"] for tokens in (batch, other)]
    assert weights[0] is weights[1]
    assert batch.to("cpu").static["weights"] is batch.static["weights"]


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_gets_the_same(kind):
    there = pickle.loads(pickle.dumps(KINDS[kind]))  # noqa: S301 - our own bytes
    assert there.format == KINDS[kind].format
    assert torch.equal(there.floats(), KINDS[kind].floats())


def test_printing_a_batch_does_not_print_its_tokens():
    tokens = LayerTokens(torch.zeros(2, 3, 4, 8), FLOATS)
    assert repr(TokenBatch({"visual/s1b01": tokens}, (5, 6))) == (
        "<TokenBatch of 2 clips, 768 bytes: visual/s1b01 floats [2, 3, 4, 8]>"
    )
    assert repr(tokens) == "<LayerTokens floats [2, 3, 4, 8] on cpu>"


def test_bytes_are_those_of_codes_and_parts():
    assert KINDS["int4"].nbytes == B * T * (N * D // 2 + 2 * 4 * D)
    assert cells().nbytes == B * T * (N // 4 * D * 2 + 4 * N)
    assert TokenBatch({"a": cells(), "b": KINDS["floats"]}, (0, 1)).nbytes == cells().nbytes + B * T * N * D * 4


def test_codes_and_parts_that_are_not_those_of_the_format_are_refused():
    tokens, _ = affine(INT8)
    with pytest.raises(UsageError, match=r"int4 tokens have torch\.uint8 codes, not torch\.int8"):
        LayerTokens(tokens.codes, INT4, tokens.parts)
    with pytest.raises(UsageError, match=r"floats tokens have floating-point codes, not torch\.int8"):
        LayerTokens(tokens.codes, FLOATS)
    with pytest.raises(UsageError, match="int8 tokens have scale, zero beside their codes, not nothing"):
        LayerTokens(tokens.codes, INT8)
    with pytest.raises(UsageError, match="floats tokens have nothing beside their codes, not scale, zero"):
        LayerTokens(tokens.floats(), FLOATS, tokens.parts)
    with pytest.raises(UsageError, match="cells tokens have share, weights beside their codes, not share"):
        replace(cells(), static={})


def test_int4_puts_the_first_half_of_the_channels_into_the_low_nibbles():
    codes = torch.tensor([[1, 2, 14, 15]], dtype=torch.uint8)
    assert pack_int4(codes).tolist() == [[0xE1, 0xF2]]
    assert torch.equal(unpack_int4(pack_int4(codes)), codes)
