"""What the compiled files share: how floats may be reordered, aligned memory, a float's bits, a frame's vectors.

Numba compiles a cached function anew when its own file changes, not when one that it calls does: a change here needs
one in every *_kernels.py, so that nobody runs the old code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite.ir import FloatType, IntType
from numba import njit
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]

# sums may be reordered into vectors; infinities and NaN keep their meaning
FAST = {"contract", "reassoc", "nsz", "arcp"}
LINE = 64  # bytes of a cache


@njit(nogil=True, cache=True)
def aligned(rows: int, nbytes: int) -> Any:
    """Memory ``[rows, nbytes]`` from a cache line's start on: a vector that straddles two loads at half the speed."""
    memory = np.empty(rows * nbytes + LINE, np.int8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + rows * nbytes].reshape(rows, nbytes)


@intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """A float's bits: of absolute values they have the same order, and what is not a number comes last."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], IntType(32))

    return types.int32(types.float32), build


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float that has these bits."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], FloatType())

    return types.float32(types.int32), build


@njit(nogil=True, cache=True)
def vector_of(vectors: tuple[Array, Array, Array], frame: int, p: int) -> Any:
    """The ``p``-th vector of a frame: see :func:`mettle_cache.methods.kernels.cpu.float_products.score_frames`."""
    queries, d_context, d_mixed = vectors
    if p < queries.shape[1]:
        return queries[frame % queries.shape[0], p]
    p -= queries.shape[1]
    if p < d_context.shape[0]:
        return d_context[p, frame]
    return d_mixed[frame, p - d_context.shape[0]]
