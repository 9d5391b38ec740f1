"""Absorbed attention on a CPU, compiled: scores, softmax and sums of a few frames while they are in the core's cache.

The twin of tiles.py, several times faster; float32 only. The two products are those of integer_kernels.py where the
codes are whole numbers and the processor multiplies tiles of bytes, else of float_kernels.py; row_kernels.py stands
between them. Frames go to as many threads as PyTorch uses, in parts whose size does not depend on that number: the same
sums in the same order give the same bits.

Shapes: F frames, f those of a part, N tokens (M: rounded up), D channels, Q queries, C contexts, K mixing rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.methods.kernels.workers import share_out
from mettle_cache.tokens import LayerTokens

Array = NDArray[Any]

# a part's codes, which are visited twice, and its scores fit a core's second cache
PART_BYTES = 1 << 20
MOST_FRAMES = 32
_ROW_STEP = 16
_FLOATS = (torch.float16, torch.float32)
_INTEGERS = (torch.int8, torch.uint8)


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether these tokens and queries are the kind that is compiled for."""
    known = tokens.format.affine and tokens.codes.dtype in (*_FLOATS, *_INTEGERS)
    return known and queries.device.type == "cpu" and queries.dtype == torch.float32


def pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.pool`."""
    from mettle_cache.methods.kernels.cpu.softmax import weigh_frames

    given = _Arguments(tokens, queries, mixing, eps)
    asked, mixers = given.queries.shape[1], given.mixing.shape[0]
    sums = torch.empty(given.frames, contexts + mixers, tokens.width)
    nothing = np.empty((0, given.frames, tokens.width), np.float32)
    vectors = (given.queries, nothing, nothing.reshape(given.frames, 0, tokens.width))
    written, nobody = sums.numpy(), np.empty((0, tokens.width), np.float32)

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_frames(part.products, part.totals, given.mixing, contexts, given.eps, part.mean, part.rstd, part.lost)
        part.sum(nobody, written)

    given.run(work, asked, contexts + mixers)
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

    given = _Arguments(tokens, queries, mixing, eps)
    asked, contexts, mixers = given.queries.shape[1], d_context.shape[0], given.mixing.shape[0]
    rows, total = asked + contexts + mixers, asked if queries.ndim == 2 else 0
    sums = torch.empty(given.frames, rows - total, tokens.width)
    d_queries = np.zeros((given.parts, total, tokens.width), np.float32)
    d_mixing = np.zeros((given.parts, *given.mixing.shape), np.float32)
    vectors = (given.queries, d_context.contiguous().numpy(), d_mixed.contiguous().numpy())
    written = sums.numpy()

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_frames_back(
            *(part.products, part.totals, given.mixing, contexts, given.eps),
            *(part.mean, part.rstd, part.lost, d_mixing[part.number]),
        )
        part.sum(d_queries[part.number], written)

    given.run(work, rows, rows)
    own = asked - total
    return PoolingGradient(
        sums[:, own : own + contexts].transpose(0, 1),
        sums[:, own + contexts :],
        torch.from_numpy(d_queries.sum(0)) if total else sums[:, :asked],
        None if mixing is None else torch.from_numpy(d_mixing.sum(0)),
    )


class _Arguments:
    """Tokens and vectors as the compiled loops want them."""

    def __init__(self, tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None) -> None:
        self.frames, self.count = tokens.codes.shape[:2]
        self.step = min(max(PART_BYTES // max(self.count * tokens.width, 1), 1), MOST_FRAMES)
        self.parts = -(-self.frames // self.step)
        asked = queries.detach().unsqueeze(0) if queries.ndim == 2 else queries.detach()
        self.queries: Array = asked.contiguous().numpy()
        rows = queries.new_empty(0, self.count) if mixing is None else mixing.detach()
        self.mixing: Array = rows.contiguous().numpy()
        self.eps = np.float32(-1 if eps is None else eps)
        self.codes: Array = tokens.codes.numpy()
        self.kernels = kernels_of(tokens)
        if tokens.scale is None or tokens.zero is None:
            self.scale, self.offset = np.ones((1, tokens.width), np.float32), np.zeros((1, tokens.width), np.float32)
        else:
            scale = tokens.scale.float()
            self.scale, self.offset = scale.numpy(), (scale * tokens.zero.float()).numpy()

    def run(self, work: Callable[[_Part], None], asked: int, rows: int) -> None:
        """Every part, on as many threads as PyTorch uses; each takes the next one when it is done.

        ``asked`` vectors have products with tokens, and ``rows`` of weights sum them up.
        """
        threads, numbers = min(torch.get_num_threads(), self.parts), iter(range(self.parts))

        def take_parts() -> None:
            part = _Part(self, asked, rows)
            for number in numbers:
                part.move_to(number)
                work(part)

        if threads < 2:
            take_parts()
            return
        share_out(take_parts, _pool_of(threads), threads)


class _Part:
    """Some frames of a layer, and a thread's memory, which serves one part after the other.

    Attributes
    ----------
    products, totals, mean, rstd, lost
        As of the compiled functions, ``[f, R, M]`` with R the larger of ``asked`` and ``rows``, ``[f, asked]``,
        ``[f, M]`` twice and ``[f, rows]``.
    """

    def __init__(self, given: _Arguments, asked: int, rows: int) -> None:
        self._given = given
        room, step = -(-given.count // _ROW_STEP) * _ROW_STEP, given.step
        self._memory: tuple[Array, ...] = (
            np.empty((step, max(asked, rows), room), np.float32),
            np.empty((step, asked), np.float32),
            # finite behind the last token, and whatever nobody writes
            np.zeros((step, room), np.float32),
            np.ones((step, room), np.float32),
            np.zeros((step, rows), np.float32),
        )

    def move_to(self, number: int) -> None:
        """Become part ``number``."""
        given, first = self._given, number * self._given.step
        frames = slice(first, first + given.step)
        self.number, self._first, self._frames = number, first, frames
        # always one whole block of memory, and never half floats: each form would be compiled for on its own
        form = np.float32 if given.codes.dtype == np.float16 else given.codes.dtype
        self._codes = np.ascontiguousarray(given.codes[frames], form)
        alike = given.scale.shape[0] == 1
        self._scale = given.scale if alike else given.scale[frames]
        self._offset = given.offset if alike else given.offset[frames]
        self.products, self.totals, self.mean, self.rstd, self.lost = (own[: len(self._codes)] for own in self._memory)

    def score(self, vectors: tuple[Array, Array, Array]) -> None:
        """See :func:`mettle_cache.methods.kernels.cpu.float_products.score_frames`."""
        given = self._given
        given.kernels.score_frames(
            *(self._codes, self._scale, self._offset, vectors, self._first, given.eps),
            *(self.products, self.totals, self.mean, self.rstd),
        )

    def sum(self, added: Array, sums: Array) -> None:
        """The part's share of ``sums [F, *, D]``; see ``float_products.sum_frames``."""
        self._given.kernels.sum_frames(
            *(self._codes, self._scale, self._offset, self.products, self.lost), added, sums[self._frames]
        )


def kernels_of(tokens: LayerTokens) -> ModuleType:
    """The module whose products these codes take on this machine."""
    from mettle_cache.methods.kernels.cpu import float_products, integer_products

    return integer_products if tokens.codes.dtype in _INTEGERS and has_byte_tiles() else float_products


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mettle-distil")
