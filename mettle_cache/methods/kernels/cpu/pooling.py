"""Absorbed attention on a CPU, compiled: scores, softmax and sums of a few frames while they are in the core's cache.

The twin of reference.py, several times faster; float32 only. The two products are those of integer_products.py where
the codes are whole numbers and the processor multiplies tiles of bytes, else of float_products.py; softmax.py stands
between them. Frames go to the threads in parts (parts.py).

Shapes: F frames, f those of a part, N tokens (M: rounded up), D channels, Q queries, C contexts, K mixing rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.methods.kernels.cpu.parts import ROW_STEP, frames_a_part, run_parts
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.tokens import AffineFormat, FloatFormat, LayerTokens

# the compiled modules are imported where they are first needed: Numba takes long to import

Array = NDArray[Any]

_FLOATS = (torch.float16, torch.float32)
# type of the codes, and whether a byte holds two: the compiled loops take those apart
_INTEGERS = ((torch.int8, False), (torch.uint8, True))


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether these tokens and queries are the kind that is compiled for."""
    return _is_compiled_for(tokens) and queries.device.type == "cpu" and queries.dtype == torch.float32


def _is_compiled_for(tokens: LayerTokens) -> bool:
    if isinstance(tokens.format, AffineFormat):
        return (tokens.format.code_dtype, tokens.format.packed) in _INTEGERS
    return isinstance(tokens.format, FloatFormat) and tokens.codes.dtype in _FLOATS


def announced(note: Callable[[str], None], device: torch.device) -> AbstractContextManager[None]:
    """See :func:`mettle_cache.methods.kernels.cpu.compiled.announced`."""
    from mettle_cache.methods.kernels.cpu.compiled import announced

    return announced(note)


def pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.pool`."""
    from mettle_cache.methods.kernels.cpu.softmax import weigh_frames

    inputs = _Inputs(tokens, queries, mixing, eps)
    count, mixers = inputs.queries.shape[1], inputs.mixing.shape[0]
    sums = torch.empty(inputs.frames, contexts + mixers, tokens.width)
    no_gradients = np.empty((0, inputs.frames, tokens.width), np.float32)
    vectors = (inputs.queries, no_gradients, no_gradients.reshape(inputs.frames, 0, tokens.width))
    by_frame, over_frames = sums.numpy(), np.empty((0, tokens.width), np.float32)

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_frames(part.products, part.totals, inputs.mixing, contexts, inputs.eps, part.mean, part.rstd, part.lost)
        part.sum(over_frames, by_frame)

    inputs.run(work, count, contexts + mixers)
    return sums[:, :contexts].transpose(0, 1), sums[:, contexts:]


def pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    """As :func:`mettle_cache.methods.kernels.reference.pool_backward`."""
    from mettle_cache.methods.kernels.cpu.softmax import weigh_frames_back

    inputs = _Inputs(tokens, queries, mixing, eps)
    count, contexts, mixers = inputs.queries.shape[1], d_context.shape[0], inputs.mixing.shape[0]
    # gradients of queries that all frames share are added up over the frames
    rows, shared = count + contexts + mixers, count if queries.ndim == 2 else 0
    sums = torch.empty(inputs.frames, rows - shared, tokens.width)
    d_queries = np.zeros((inputs.parts, shared, tokens.width), np.float32)
    d_mixing = np.zeros((inputs.parts, *inputs.mixing.shape), np.float32)
    vectors = (inputs.queries, d_context.contiguous().numpy(), d_mixed.contiguous().numpy())
    by_frame = sums.numpy()

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_frames_back(
            *(part.products, part.totals, inputs.mixing, contexts, inputs.eps),
            *(part.mean, part.rstd, part.lost, d_mixing[part.number]),
        )
        part.sum(d_queries[part.number], by_frame)

    inputs.run(work, rows, rows)
    first = count - shared
    return PoolingGradient(
        sums[:, first : first + contexts].transpose(0, 1),
        sums[:, first + contexts :],
        torch.from_numpy(d_queries.sum(0)) if shared else sums[:, :count],
        None if mixing is None else torch.from_numpy(d_mixing.sum(0)),
    )


def norm_gradients(
    d_normed: Tensor, d_shift: Tensor, values: Tensor, norm: Tensor, norm_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.norm_gradients`."""
    from mettle_cache.methods.kernels.cpu.float_products import leave_norm

    d_norm, d_norm_bias = torch.empty_like(norm), torch.empty_like(norm_bias)
    arguments = (d_normed, d_shift, values, norm, norm_bias, d_norm, d_norm_bias)
    leave_norm(*(tensor.detach().numpy() for tensor in arguments))
    return d_norm, d_norm_bias


class _Inputs:
    """Tokens and vectors as the arrays that the compiled loops take."""

    def __init__(self, tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None) -> None:
        self.frames, self.count = tokens.codes.shape[0], tokens.count
        self.step = frames_a_part(self.count, tokens.width)
        self.parts = -(-self.frames // self.step)
        by_frame = queries.detach().unsqueeze(0) if queries.ndim == 2 else queries.detach()
        self.queries: Array = by_frame.contiguous().numpy()
        rows = queries.new_empty(0, self.count) if mixing is None else mixing.detach()
        self.mixing: Array = rows.contiguous().numpy()
        self.eps = np.float32(-1 if eps is None else eps)
        self.codes: Array = tokens.codes.numpy()
        # half floats become float32 part by part: each type would be compiled for on its own
        self.code_type = np.float32 if isinstance(tokens.format, FloatFormat) else self.codes.dtype
        self.kernels = kernels_of(tokens)
        if tokens.scale is None or tokens.zero is None:
            self.scale, self.offset = np.ones((1, tokens.width), np.float32), np.zeros((1, tokens.width), np.float32)
        else:
            scale = tokens.scale.float()
            self.scale, self.offset = scale.numpy(), (scale * tokens.zero.float()).numpy()

    def run(self, work: Callable[[_Part], None], vectors: int, rows: int) -> None:
        """Do ``work`` on every part.

        ``vectors`` is the number of vectors that are multiplied by tokens, ``rows`` that of the rows of weights.
        """

        def make_worker() -> Callable[[int], None]:
            part = _Part(self, vectors, rows)

            def work_on(number: int) -> None:
                part.move_to(number)
                work(part)

            return work_on

        run_parts(self.parts, make_worker)


class _Part:
    """Some frames of a layer, in memory that a thread uses again for its next part.

    Attributes
    ----------
    products, totals, mean, rstd, lost
        As of the compiled functions, ``[f, R, M]`` with R the larger of ``vectors`` and ``rows``, ``[f, vectors]``,
        ``[f, M]`` twice and ``[f, rows]``.
    """

    def __init__(self, inputs: _Inputs, vectors: int, rows: int) -> None:
        self._inputs = inputs
        room, step = -(-inputs.count // ROW_STEP) * ROW_STEP, inputs.step
        self._memory: tuple[Array, ...] = (
            np.empty((step, max(vectors, rows), room), np.float32),
            np.empty((step, vectors), np.float32),
            # finite behind the last token, and where nothing is written
            np.zeros((step, room), np.float32),
            np.ones((step, room), np.float32),
            np.zeros((step, rows), np.float32),
        )

    def move_to(self, number: int) -> None:
        """Become part ``number``."""
        inputs, first = self._inputs, number * self._inputs.step
        frames = slice(first, first + inputs.step)
        self.number, self._first, self._frames = number, first, frames
        # always one whole block of memory: the compiled functions are for such
        self._codes = np.ascontiguousarray(inputs.codes[frames], inputs.code_type)
        alike = inputs.scale.shape[0] == 1
        self._scale = inputs.scale if alike else inputs.scale[frames]
        self._offset = inputs.offset if alike else inputs.offset[frames]
        self.products, self.totals, self.mean, self.rstd, self.lost = (
            array[: len(self._codes)] for array in self._memory
        )

    def score(self, vectors: tuple[Array, Array, Array]) -> None:
        """See :func:`mettle_cache.methods.kernels.cpu.float_products.score_frames`."""
        inputs = self._inputs
        inputs.kernels.score_frames(
            *(self._codes, self._scale, self._offset, vectors, self._first, inputs.eps),
            *(self.products, self.totals, self.mean, self.rstd),
        )

    def sum(self, added: Array, sums: Array) -> None:
        """The part's share of ``sums [F, *, D]``; see ``float_products.sum_frames``."""
        self._inputs.kernels.sum_frames(
            *(self._codes, self._scale, self._offset, self.products, self.lost), added, sums[self._frames]
        )


def kernels_of(tokens: LayerTokens) -> ModuleType:
    """The module that multiplies these codes on this machine."""
    from mettle_cache.methods.kernels.cpu import float_products, integer_products

    return integer_products if isinstance(tokens.format, AffineFormat) and has_byte_tiles() else float_products
