"""Absorbed attention on an NVIDIA GPU, by one kernel: affine codes and float16, in float32.

The twin of reference.py. The kernel is in kernel.py, what it is launched with in launch.py; both are imported where
they are first needed, because Triton is not on every machine. Shapes: F frames, N tokens, D channels, Q queries, C
contexts, K mixing rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.cuda.machine import can_run
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.tokens import AffineFormat, FloatFormat, LayerTokens

if TYPE_CHECKING:
    from mettle_cache.methods.kernels.cuda.kernel import Block
    from mettle_cache.methods.kernels.cuda.launch import Pooled

norm_gradients = reference.norm_gradients

# bits of a code, by the codes' type and whether a byte holds two
_INTEGERS = {(torch.int8, False): 8, (torch.uint8, True): 4}
# sums of this many products of bytes still fit 32 bits
_LONGEST = 1 << 16


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether these tokens and queries are of a kind that the kernel is for, on a GPU that runs it."""
    return can_run(tokens.codes.device) and is_kernel_for(tokens, queries)


def is_kernel_for(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether the kernel is for such tokens and queries, wherever they are."""
    if queries.dtype != torch.float32 or queries.device != tokens.codes.device or not tokens.codes.numel():
        return False
    if isinstance(tokens.format, AffineFormat):
        known = (tokens.format.code_dtype, tokens.format.packed) in _INTEGERS
        return known and max(tokens.count, tokens.width) <= _LONGEST
    return isinstance(tokens.format, FloatFormat) and tokens.codes.dtype == torch.float16


@contextlib.contextmanager
def announced(note: Callable[[str], None], device: torch.device) -> Iterator[None]:
    """Call ``note`` once if a kernel is compiled inside the block; one from Triton's cache does not count."""
    import triton

    told = False

    def listen(*, cache_hit: bool, **_: object) -> None:
        nonlocal told
        if not cache_hit and not told:
            told = True
            note("compiling GPU kernels, once for this machine")

    before = triton.knobs.compilation.listener
    triton.knobs.compilation.listener = listen
    try:
        yield
    finally:
        triton.knobs.compilation.listener = before


def pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.pool`."""
    return pool_stage([tokens], [queries], [mixing], eps, contexts)[0]


def pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    """As :func:`mettle_cache.methods.kernels.reference.pool_backward`."""
    return pool_stage_backward([tokens], [queries], [mixing], eps, [d_context], [d_mixed])[0]


def pool_stage(
    tokens: Sequence[LayerTokens],
    queries: Sequence[Tensor],
    mixing: Sequence[Tensor | None],
    eps: float | None,
    contexts: int,
) -> list[tuple[Tensor, Tensor]]:
    """:func:`pool` of layers of one stage, whose arrays have the same shapes, in one launch."""
    blocks = [make_block(*of_block) for of_block in zip(tokens, queries, mixing, strict=True)]
    sums = _pool(blocks, tokens[0], queries[0], contexts, eps).sums
    return [(of_block[:, :contexts].transpose(0, 1), of_block[:, contexts:]) for of_block in sums]


def pool_stage_backward(
    tokens: Sequence[LayerTokens],
    queries: Sequence[Tensor],
    mixing: Sequence[Tensor | None],
    eps: float | None,
    d_context: Sequence[Tensor],
    d_mixed: Sequence[Tensor],
) -> list[PoolingGradient]:
    """:func:`pool_backward` of layers of one stage, in one launch."""
    given = zip(tokens, queries, mixing, d_context, d_mixed, strict=True)
    contexts = len(d_context[0])
    found = _pool([make_block(*of_block) for of_block in given], tokens[0], queries[0], contexts, eps, back=True)
    return [
        PoolingGradient(
            sums[:, :contexts].transpose(0, 1),
            sums[:, contexts:],
            d_queries,
            None if of_mixing is None else d_mixing[:, : of_mixing.shape[1]],
        )
        for sums, d_queries, d_mixing, of_mixing in zip(
            found.sums, found.d_queries, found.d_mixing, mixing, strict=True
        )
    ]


def _pool(
    blocks: Sequence[Block],
    tokens: LayerTokens,
    queries: Tensor,
    contexts: int,
    eps: float | None,
    *,
    back: bool = False,
) -> Pooled:
    from mettle_cache.methods.kernels.cuda.launch import Pooling, pool_blocks

    form = tokens.format
    bits = _INTEGERS[tokens.codes.dtype, form.packed] if isinstance(form, AffineFormat) else 8
    pooling = Pooling(
        queries=queries.shape[-2],
        contexts=contexts,
        mixers=len(blocks[0].mixing),
        rows=tokens.count,
        width=tokens.width,
        bits=bits,
        scaled=tokens.scale is not None,
        norm=eps is not None,
        shared=queries.ndim == 2,
        eps=0.0 if eps is None else eps,
        back=back,
    )
    return pool_blocks(blocks, pooling)


def make_block(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    d_context: Tensor | None = None,
    d_mixed: Tensor | None = None,
) -> Block:
    """A layer's arrays as the kernel takes them; ``queries`` stand for what there is none of, which nothing reads."""
    from mettle_cache.methods.kernels.cuda.kernel import Block
    from mettle_cache.methods.kernels.cuda.launch import room_for

    asked = queries.detach().contiguous()
    rows = queries.new_empty(0, tokens.count) if mixing is None else mixing.detach()
    padded = torch.nn.functional.pad(rows, (0, room_for(tokens.count) - tokens.count))
    return Block(
        codes=tokens.codes.contiguous(),
        scale=asked if tokens.scale is None else tokens.scale.contiguous(),
        zero=asked if tokens.zero is None else tokens.zero.contiguous(),
        asked=asked,
        # contiguous as it comes, [C, F, D]: by frames it would be a copy of the size of a late layer's codes
        d_context=asked if d_context is None else d_context.contiguous().transpose(0, 1),
        d_mixed=asked if d_mixed is None else d_mixed.contiguous(),
        mixing=padded.contiguous(),
        sigma=asked,
        mu=asked,
        sides=asked,
    )
