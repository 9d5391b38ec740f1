"""Sixteen numbers at a time, against the same in numpy; any processor runs them."""

import numpy as np
import pytest
from numba import njit

from mettle_cache.methods.kernels.cpu.simd import (
    add_moments,
    interleave_bytes,
    join_bytes,
    spread_bits,
    transpose_words,
)


@njit
def transpose(words, out):
    transpose_words(words.ctypes.data, 4 * words.shape[1], out.ctypes.data, 4 * out.shape[1])


@njit
def interleave(rows, out):
    interleave_bytes(rows.ctypes.data, rows.shape[1], out.ctypes.data)


@njit
def join(found, unit, scale, shift, offset, less, adding, out):
    place = found.ctypes.data
    join_bytes(
        place, 4 * found.shape[1], unit, scale.ctypes.data, shift, offset.ctypes.data, less, adding, out.ctypes.data
    )


@njit
def moments(rows, width, scale, offset, out):
    sums, squares = out.ctypes.data, out[4:].ctypes.data
    add_moments(rows.ctypes.data, rows.shape[1], width, scale.ctypes.data, offset.ctypes.data, sums, squares)


def draw_bytes(*shape):
    return np.random.default_rng(0).integers(-128, 128, shape, dtype=np.int8)


def test_words_are_transposed():
    words, out = draw_bytes(16, 80).view(np.int32), np.zeros((16, 24), np.int32)
    transpose(words, out)
    assert np.array_equal(out[:, :16], words[:, :16].T)
    assert not out[:, 16:].any()


def test_bytes_of_four_rows_are_interleaved():
    rows, out = draw_bytes(4, 48), np.zeros(40, np.int32)
    interleave(rows, out)
    assert np.array_equal(out[:32].view(np.int8).reshape(32, 4), rows[:, :32].T)
    assert not out[32:].any()


@pytest.mark.parametrize("adding", [True, False])
def test_three_parts_are_joined(adding):
    rng = np.random.default_rng(1)
    found = rng.integers(-10_000, 10_000, (3, 20), dtype=np.int32)
    scale, offset = rng.random((2, 16), dtype=np.float32)
    out = np.full(16, 1000 if adding else np.nan, np.float32)
    join(found, np.float32(1e-3), scale, np.float32(2), offset, np.float32(3), adding, out)
    high, middle, low = found[:, :16].astype(np.float64)
    exact = 1e-3 * (65536 * high + 256 * middle + low) * scale + 2 * offset - 3 + (1000 if adding else 0)
    assert np.allclose(out, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_moments_of_four_rows():
    rng = np.random.default_rng(2)
    rows, (scale, offset) = draw_bytes(4, 64), rng.random((2, 48), dtype=np.float32)
    out = np.zeros(8, np.float32)
    moments(rows, 48, scale, offset, out)
    x = rows[:, :48] * scale.astype(np.float64) + offset
    assert np.allclose(out, [*x.sum(1), *np.square(x).sum(1)], rtol=1e-5)


@njit
def spread(packed, count, shift, mask, less, out):
    spread_bits(packed.ctypes.data, count, np.uint8(shift), np.uint8(mask), np.uint8(less), out.ctypes.data)


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (4, 4), (2, 2), (1, 7)])
def test_bits_of_bytes_are_spread_over_bytes(bits, shift):
    packed, out = draw_bytes(100).view(np.uint8), np.zeros(100, np.int8)
    spread(packed, 50, shift, 2**bits - 1, 2 ** (bits - 1), out)
    expected = ((packed >> shift) & (2**bits - 1)).astype(int) - 2 ** (bits - 1)
    assert (out[:50] == expected[:50]).all()
    assert (out[64:] == 0).all()
