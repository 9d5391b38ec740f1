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

    def work(part: int, start: int, stop: int) -> None:
        forward_frames(*given.part(start, stop), context[:, start:stop].numpy(), mixed[start:stop].numpy())

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
    shared = queries.ndim == 2
    d_queries = torch.zeros(given.parts if shared else given.frames, *queries.shape[-2:])
    d_mixing = torch.zeros(given.parts, *given.mixing.shape)

    def work(part: int, start: int, stop: int) -> None:
        own = slice(part, part + 1) if shared else slice(start, stop)
        backward_frames(
            *given.part(start, stop),
            *(array.numpy() for array in (d_context[:, start:stop], d_mixed[start:stop])),
            *(array.numpy() for array in (context[:, start:stop], mixed[start:stop])),
            d_queries[own].numpy(),
            d_mixing[part].numpy(),
        )

    given.run(work)
    return PoolingGradient(
        context, mixed, d_queries.sum(0) if shared else d_queries, None if mixing is None else d_mixing.sum(0)
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

    def part(self, start: int, stop: int) -> tuple[object, ...]:
        """What a compiled loop is given of the frames from ``start`` to ``stop``."""
        codes = self.tokens.codes[start:stop].contiguous()
        if codes.is_floating_point():
            codes = codes.float()
            scale, offset = (np.broadcast_to(row, (stop - start, row.shape[1])) for row in (self.scale, self.offset))
            scale, offset = np.ascontiguousarray(scale), np.ascontiguousarray(offset)
        else:
            scale, offset = self.scale[start:stop], self.offset[start:stop]
        queries = self.queries if len(self.queries) == 1 else self.queries[start:stop]
        return codes.numpy(), scale, offset, queries, self.mixing, self.eps

    def run(self, work: Callable[[int, int, int], None]) -> None:
        """``work(part, start, stop)`` for every part, on as many threads as PyTorch uses."""
        parts = [
            (n, s, min(s + FRAMES_A_PART, self.frames)) for n, s in enumerate(range(0, self.frames, FRAMES_A_PART))
        ]
        threads = min(torch.get_num_threads(), len(parts))
        if threads < 2:
            for part in parts:
                work(*part)
            return
        for done in [_pool_of(threads).submit(work, *part) for part in parts]:
            done.result()


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mettle-distil")
