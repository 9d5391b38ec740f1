"""Stored codes as bytes, a token in a row: where they lie, or a copy of what is packed or of an odd size.

Shapes: F frames, N tokens, D channels.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from mettle_cache.methods.kernels.cpu.compiled import PACKED, Array


def some_tokens(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
    """As many tokens of a frame as ``scratch`` has rows, their number and channels in whole steps, or else copied.

    A copy has the tokens that there are in its first rows and columns; what else is there stays.
    """
    raise NotImplementedError("runs in compiled code only")


@overload(some_tokens, strict=False)
def _some_tokens(codes: Any, f: Any, start: Any, step: Any, scratch: Any) -> Any:
    def plain(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
        stop = start + scratch.shape[0]
        if stop <= codes.shape[1] and codes.shape[2] % step == 0:
            whole: Array = codes[f, start:stop]
            return whole
        for n in range(min(codes.shape[1] - start, scratch.shape[0])):
            row, copy = codes[f, start + n], scratch[n]
            for d in range(row.shape[0]):
                copy[d] = row[d]
        return scratch

    def packed(codes: Array, f: int, start: int, step: int, scratch: Array) -> Array:
        half = codes.shape[2]
        for n in range(min(codes.shape[1] - start, scratch.shape[0])):
            row, low, high = codes[f, start + n], scratch[n, :half], scratch[n, half : 2 * half]
            for d in range(half):
                low[d], high[d] = row[d] & 15, row[d] >> 4
        return scratch

    return packed if codes.dtype == PACKED else plain
