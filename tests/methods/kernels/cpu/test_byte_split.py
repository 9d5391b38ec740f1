"""Whole numbers in three signed bytes against arithmetic in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mettle_cache.methods.kernels.cpu.byte_split import size_up, split_row

finite = st.floats(-(2.0**100), 2.0**100, width=32)


def split(row):
    rows = np.zeros((3, len(row)), np.int8)
    largest, _ = size_up(row)
    return split_row(row, np.float32(largest), rows, 0, 1), rows.astype(np.int64)


@settings(deadline=None)
@given(row=arrays.arrays(np.float32, st.integers(1, 70), elements=finite))
def test_three_bytes_are_a_row_to_a_unit(row):
    unit, (high, middle, low) = split(row)
    whole = high * 65536 + middle * 256 + low
    # half a unit, and what float32 rounds of the largest: half a unit twice by the inverse (a compiler may take it as a
    # product with that of the largest), and a quarter by the product
    assert np.abs(whole * float(unit) - row.astype(np.float64)).max() <= max(1.75 * float(unit), 1e-31)
    assert float(unit) == pytest.approx(np.abs(row).max() / 0x7F7F00, rel=1e-6, abs=1e-44)


def test_the_largest_values_do_not_overflow_a_byte():
    row = np.float32([1, -1, 0.999999, -0.999999, 0])
    unit, (high, middle, low) = split(row)
    assert np.allclose((high * 65536 + middle * 256 + low) * float(unit), row, atol=float(unit))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_makes_the_whole_row_so(value):
    unit, _ = split(np.float32([1, value, 2]))
    assert not np.isfinite(unit)
