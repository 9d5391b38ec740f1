"""Products of rows of codes, which become operands in registers, with factors: vectors, or rows of weights.

A factor goes into a product in parts, so that the product is as exact as one in float32 on units that multiply short
numbers (docs/gpu.md, "Kernels"):

- ``BYTES``, for codes that are whole numbers: 24 bits as three signed bytes. Sums are exact in 32 bits.
- ``HALVES``, for float16 codes: two float16 numbers, 22 bits. Sums are float32.

Codes of b bits lie in planes: a byte holds 8 / b of them, of components that are as far apart as the plane has bytes.
int8 is one plane of signed bytes, int4 one of nibbles, ``klt`` has planes of 8, 4, 2 and 1 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mettle_cache.methods.kernels.cuda.form import BYTES, HALVES

# the largest 24-bit number whose three signed bytes are at most 127, and stay so when rounding adds one
_LARGEST: tl.constexpr = tl.constexpr(float(0x7F7F00))
# what the largest of a row becomes as a float16: small ones keep their bits
_HIGH: tl.constexpr = tl.constexpr(16384.0)
# of a unit whose inverse is finite: a row of nothing but numbers below 1e-31 counts as 0
_SMALLEST: tl.constexpr = tl.constexpr(1.2e-38)
_BYTE: tl.constexpr = tl.constexpr(255)


@triton.jit
def unit_of(largest: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """What a row's parts count in, given the largest absolute value of the row."""
    if KIND == BYTES:
        unit = largest / _LARGEST
    else:
        unit = largest / _HIGH
    return unit


@triton.jit
def store_parts(
    values: tl.tensor, unit: tl.tensor, parts: tl.tensor, step: tl.tensor, mask: tl.tensor, KIND: tl.constexpr
) -> None:
    """Split ``values`` of rows that count in ``unit`` and store each part, ``step`` numbers after the one before."""
    counts = unit > _SMALLEST
    scaled = values * tl.where(counts, 1.0 / tl.where(counts, unit, 1.0), 0.0)[:, None]
    if KIND == HALVES:
        high = scaled.to(tl.float16)
        tl.store(parts, high, mask=mask)
        tl.store(parts + step, (scaled - high.to(tl.float32)).to(tl.float16), mask=mask)
    else:
        # 128 too many in each byte, and then not: no byte borrows from the next
        whole = (tl.floor(scaled + 0.5).to(tl.int32) + 0x808080) ^ 0x808080
        tl.store(parts, (whole >> 16).to(tl.int8), mask=mask)
        tl.store(parts + step, (whole >> 8).to(tl.int8), mask=mask)
        tl.store(parts + 2 * step, whole.to(tl.int8), mask=mask)


@triton.jit
def no_sums(ROWS: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr) -> tl.tensor:
    """Sums for each part; floats are added to the first alone."""
    if KIND == BYTES:
        zeros = tl.zeros([ROWS, COLUMNS], tl.int32)
    else:
        zeros = tl.zeros([ROWS, COLUMNS], tl.float32)
    return zeros, zeros, zeros


@triton.jit
def joined(sums: tl.tuple, KIND: tl.constexpr) -> tl.tensor:
    """Sums over all parts, in units."""
    if KIND == BYTES:
        whole = sums[0].to(tl.float32) * 65536.0 + (sums[1].to(tl.float32) * 256.0 + sums[2].to(tl.float32))
    else:
        whole = sums[0]
    return whole


@triton.jit
def take(raw: tl.tensor, place: tl.tensor, BITS: tl.constexpr, KIND: tl.constexpr, LIFTED: tl.constexpr) -> tl.tensor:
    """The code at a place of each byte, as an operand. Unsigned bytes lose 128, so that they are signed.

    LIFTED codes of b bits are ``2^(7 - b)`` times what they are: planes of all widths are then of one size, and so are
    the factors that they are multiplied with, of which the largest decides how exact the others are.
    """
    if KIND == HALVES:
        codes = raw
    elif BITS < 8:
        lift: tl.constexpr = 7 - BITS if LIFTED else 0
        mask: tl.constexpr = (_BYTE >> (8 - BITS)) << lift
        codes = (((raw.to(tl.int16) << lift) >> (place * BITS)) & mask).to(tl.int8)
    elif raw.dtype == tl.uint8:
        codes = (raw ^ 128).to(tl.int8, bitcast=True)
    else:
        codes = raw
    return codes


@triton.jit
def multiply(
    sums: tl.tuple, parts: tl.tensor, step: tl.tensor, mask: tl.tensor, codes: tl.tensor, KIND: tl.constexpr
) -> tl.tensor:
    """``sums`` and the products of the parts at ``parts`` with ``codes``."""
    high, middle, low = sums
    first = tl.load(parts, mask=mask, other=0)
    if KIND == BYTES:
        high = tl.dot(first, codes, high, out_dtype=tl.int32)
        middle = tl.dot(tl.load(parts + step, mask=mask, other=0), codes, middle, out_dtype=tl.int32)
        low = tl.dot(tl.load(parts + 2 * step, mask=mask, other=0), codes, low, out_dtype=tl.int32)
    else:
        high = tl.dot(tl.load(parts + step, mask=mask, other=0), codes, high)
        high = tl.dot(first, codes, high)
    return high, middle, low
