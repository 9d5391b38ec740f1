"""Bit planes of ``klt`` codes as a signed byte a component, for the products of any processor.

A code c of b bits becomes ``c - 2^(b-1)``, so that a component is ``(byte + 1/2) step`` in every plane: eight bits fit
a signed byte, and the compiled loops take unsigned ones for two codes in one. Source: FORMAT.md, section 5.

Shapes: F frames, R rows, B bytes of a row, M components.
"""

from __future__ import annotations

import numpy as np

from mettle_cache.methods.kernels.cpu.compiled import Array, compiled
from mettle_cache.methods.kernels.cpu.simd import spread_bits

# what is read and written behind the last byte, at most
SLACK = 32


@compiled()
def expand_row(row: int, planes: tuple[int, int, int, int], out: int) -> None:
    """One row's bytes at the address ``row`` as bytes at ``out``; the next group is written over a group's slack."""
    bits = 8
    for number in planes:
        # byte k holds the components k, k + count, ... of its plane, lowest bits first
        count, mask, half = number * bits // 8, np.uint8((1 << bits) - 1), np.uint8(1 << (bits - 1))
        for shift in range(0, 8, bits):
            spread_bits(row, count, np.uint8(shift), mask, half, out)
            out += count
        row += count
        bits //= 2


@compiled()
def expand_planes(codes: Array, planes: tuple[int, int, int, int], out: Array) -> None:
    """Rows ``codes [F, R, B]`` of ``planes`` of 8, 4, 2 and 1 bits as bytes ``[F, R, M]`` at the start of ``out``.

    ``out`` is a flat int8 array that goes on for :data:`SLACK` bytes behind them.
    """
    rows, nbytes = codes.shape[0] * codes.shape[1], codes.shape[2]
    components, start, target = sum(planes), codes.ctypes.data, out.ctypes.data
    # rows near the end are read from a copy: behind the last one there may be no memory
    copied = min(rows, (SLACK + nbytes - 1) // max(nbytes, 1))
    for n in range(rows - copied):
        expand_row(start + n * nbytes, planes, target + n * components)
    last = np.zeros(copied * nbytes + SLACK, np.uint8)
    flat = codes.reshape(rows * nbytes)
    last[: copied * nbytes] = flat[(rows - copied) * nbytes :]
    for n in range(copied):
        expand_row(last.ctypes.data + n * nbytes, planes, target + (rows - copied + n) * components)
