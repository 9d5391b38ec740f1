"""Absorbed attention on a CPU in one visit a frame: scores, softmax and sums while the frame is in the core's cache.

The compiled twin of tiles.py, three times faster; float32 only. Frames go to as many threads as PyTorch uses, in parts
whose size does not depend on that number: the same sums in the same order give the same bits.

Shapes: F frames, N tokens, D channels, Q queries, K mixing rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.methods.tiles import PoolingGradient
from mettle_cache.tokens import LayerTokens

FRAMES_A_PART = 8
_CODES = (torch.int8, torch.uint8, torch.float16, torch.float32)


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether these tokens and queries are the kind that is compiled for."""
    return queries.device.type == "cpu" and queries.dtype == torch.float32 and tokens.codes.dtype in _CODES


def pool(tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.tiles.pool`."""
    from mettle_cache.methods.fused_kernels import forward_frames

    given = _Arguments(tokens, queries, mixing, eps)
    context = torch.empty(given.queries.shape[1], given.frames, tokens.width)
    mixed = torch.empty(given.frames, given.mixing.shape[0], tokens.width)

    def work(part: int, codes: NDArray[np.generic], first: int) -> None:
        forward_frames(codes, first, *given.shared, context.numpy(), mixed.numpy())

    given.run(work)
    return context, mixed


def pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    """As :func:`mettle_cache.methods.tiles.pool_backward`."""
    from mettle_cache.methods.fused_kernels import backward_frames

    given = _Arguments(tokens, queries, mixing, eps)
    d_context, d_mixed = d_context.contiguous(), d_mixed.contiguous()
    context, mixed = torch.empty_like(d_context), torch.empty_like(d_mixed)
    alike = queries.ndim == 2
    d_queries = torch.zeros(given.parts if alike else given.frames, *queries.shape[-2:])
    d_mixing = torch.zeros(given.parts, *given.mixing.shape)
    arrays = [tensor.numpy() for tensor in (d_context, d_mixed, context, mixed, d_queries, d_mixing)]

    def work(part: int, codes: NDArray[np.generic], first: int) -> None:
        backward_frames(codes, first, part, *given.shared, *arrays)

    given.run(work)
    return PoolingGradient(
        context, mixed, d_queries.sum(0) if alike else d_queries, None if mixing is None else d_mixing.sum(0)
    )


class _Arguments:
    """Tokens and vectors as the compiled loops want them."""

    def __init__(self, tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None) -> None:
        self.tokens = tokens
        self.frames, count = tokens.codes.shape[:2]
        self.parts = -(-self.frames // FRAMES_A_PART)
        asked = queries.detach().unsqueeze(0) if queries.ndim == 2 else queries.detach()
        self.queries: NDArray[np.float32] = asked.contiguous().numpy()
        rows = queries.new_empty(0, count) if mixing is None else mixing.detach()
        self.mixing: NDArray[np.float32] = rows.contiguous().numpy()
        self.eps = np.float32(-1 if eps is None else eps)
        if tokens.scale is None or tokens.zero is None:
            self.scale, self.offset = np.ones((1, tokens.width), np.float32), np.zeros((1, tokens.width), np.float32)
        else:
            scale = tokens.scale.float()
            self.scale, self.offset = scale.numpy(), (scale * tokens.zero.float()).numpy()

    @property
    def shared(self) -> tuple[object, ...]:
        """What every call of a compiled loop is given alike."""
        return self.scale, self.offset, self.queries, self.mixing, self.eps

    def run(self, work: Callable[[int, NDArray[np.generic], int], None]) -> None:
        """``work(part, codes, first)`` for every part, on as many threads as PyTorch uses.

        Always of whole blocks of memory, whatever the part: each layout would be compiled for on its own.
        """

        def work_on(part: int) -> None:
            first = part * FRAMES_A_PART
            codes = self.tokens.codes[first : first + FRAMES_A_PART].contiguous()
            work(part, (codes.float() if codes.is_floating_point() else codes).numpy(), first)

        threads = min(torch.get_num_threads(), self.parts)
        if threads < 2:
            for part in range(self.parts):
                work_on(part)
            return
        for done in [_pool_of(threads).submit(work_on, part) for part in range(self.parts)]:
            done.result()


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mettle-distil")
