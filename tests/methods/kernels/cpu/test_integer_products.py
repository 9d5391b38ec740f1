"""Codes as the tiles' columns, and products by tiles against arithmetic in float64."""

import numpy as np
import pytest

from mettle_cache.methods.kernels.cpu import integer_products
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles


def test_a_piece_of_tokens_becomes_columns():
    tokens = np.arange(32 * 128, dtype=np.int32).astype(np.int8).reshape(32, 128)
    columns = np.zeros((32, 48), np.int32)
    integer_products.pack_tokens(tokens, columns)
    assert np.array_equal(columns[:, :32], tokens.view(np.int32).T)


def test_channels_of_four_tokens_lie_together():
    tokens = np.arange(8 * 96, dtype=np.int32).astype(np.int8).reshape(8, 96)
    wanted = tokens.reshape(2, 4, 96).transpose(0, 2, 1)
    for start, stop in ((0, 64), (64, 96)):
        columns = np.zeros((2, 64), np.int32)
        integer_products.interleave_tokens(tokens, start, columns)
        assert np.array_equal(columns.view(np.int8).reshape(2, 64, 4)[:, : stop - start], wanted[:, start:stop])


@pytest.mark.skipif(not has_byte_tiles(), reason="this processor multiplies no tiles of bytes")
@pytest.mark.parametrize(("count", "width", "asked"), [(16, 64, 1), (100, 96, 11), (300, 40, 34), (5, 1100, 2)])
def test_products_and_sums_are_exact_to_single_precision(count, width, asked):
    rng = np.random.default_rng(count)
    codes = rng.integers(-128, 128, (2, count, width), dtype=np.int8)
    scale = rng.random((2, width), dtype=np.float32) * 0.05
    offset = rng.standard_normal((2, width), dtype=np.float32)
    tokens = codes * scale[:, None].astype(np.float64) + offset[:, None]
    vectors = rng.standard_normal((2, asked, width), dtype=np.float32)
    room = -(-count // 16) * 16
    products, totals = np.empty((2, asked, room), np.float32), np.empty((2, asked), np.float32)
    mean, rstd = np.zeros((2, room), np.float32), np.ones((2, room), np.float32)
    nothing = np.empty((0, 2, width), np.float32)
    given = (vectors, nothing, nothing.reshape(2, 0, width))
    integer_products.score_frames(codes, scale, offset, given, 0, np.float32(1e-5), products, totals, mean, rstd)
    assert relative_error(products[:, :, :count], vectors.astype(np.float64) @ tokens.transpose(0, 2, 1)) < 1e-6
    assert relative_error(totals, vectors.sum(-1, dtype=np.float64)) < 1e-6
    assert np.allclose(mean[:, :count], tokens.mean(-1), atol=1e-5)
    assert np.allclose(rstd[:, :count], 1 / np.sqrt(tokens.var(-1) + 1e-5), rtol=1e-4)
    weights = np.zeros((2, asked, room), np.float32)
    weights[:, :, :count] = rng.random((2, asked, count), dtype=np.float32)
    less, total = rng.random((2, asked), dtype=np.float32), asked // 2
    added, sums = np.ones((total, width), np.float32), np.empty((2, asked - total, width), np.float32)
    integer_products.sum_frames(codes, scale, offset, weights, less, added, sums)
    exact = weights[:, :, :count].astype(np.float64) @ tokens - less[..., None]
    assert relative_error(sums, exact[:, total:]) < 1e-6
    assert not total or relative_error(added, 1 + exact[:, :total].sum(0)) < 1e-6


def relative_error(found, exact):
    return np.abs(found - exact).max() / np.abs(exact).max()
