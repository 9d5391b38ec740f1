"""Bit planes of ``klt`` codes as a signed byte a component, for the products of any processor.

A code c of b bits becomes ``c - 2^(b-1)``, so that a component is ``(byte + 1/2) step`` in every plane: eight bits fit
a signed byte, and the compiled loops take unsigned ones for two codes in one. Source: FORMAT.md, section 5.
"""

from __future__ import annotations

import numpy as np

from mettle_cache.methods.kernels.cpu.compiled import Array, compiled


@compiled()
def expand_plane(packed: Array, bits: int, out: Array) -> None:
    """One row's plane: byte k holds the components k, k + n, ... of n bytes, lowest bits first."""
    count, mask, half = packed.shape[0], np.uint8((1 << bits) - 1), np.uint8(1 << (bits - 1))
    for group in range(8 // bits):
        shift, members = np.uint8(group * bits), out[group * count : (group + 1) * count]
        for k in range(count):
            members[k] = np.int8(np.uint8(np.uint8(packed[k] >> shift) & mask) - half)


@compiled()
def expand_planes(codes: Array, planes: tuple[int, int, int, int], out: Array) -> None:
    """Rows ``codes [F, R, C]`` of ``planes`` of 8, 4, 2 and 1 bits as ``out [F, R, M]`` int8."""
    n8, n4, n2, _ = planes
    b4, b2, b1 = n8, n8 + n4 // 2, n8 + n4 // 2 + n2 // 4
    m4, m2, m1 = n8, n8 + n4, n8 + n4 + n2
    for f in range(codes.shape[0]):
        for n in range(codes.shape[1]):
            row, members = codes[f, n], out[f, n]
            expand_plane(row[:b4], 8, members[:m4])
            expand_plane(row[b4:b2], 4, members[m4:m2])
            expand_plane(row[b2:b1], 2, members[m2:m1])
            expand_plane(row[b1:], 1, members[m1:])
