"""Attention of a few queries over many stored tokens, without projecting or expanding the tokens.

Keys and values need no projection of their own: ``u = W_Kᵀ q`` is one D-vector a head, logits are ``X u`` and the
context is ``αᵀ X``. The token-mixing branch ``W_g X`` is K more rows of the second product. Both run on the stored
codes (tiles.py in PyTorch, fused.py compiled), and so does the backward pass, which is written by hand: it reads the
codes again and recomputes the weights. Exact: outputs and gradients agree with ``nn.MultiheadAttention`` to float64
rounding (tests/methods). Source: architecture.md, ideas 1 and 2.

What follows the pooling is affine in its results: the value and output projections, the bias of the mixing branch, the
projection to d. :func:`distil_tokens` recomputes those results in the backward pass, too, so that nothing at all of a
layer is kept but its codes, which belong to the reader.

Shapes: F frames (B clips times T segments), N tokens, D channels, Q queries (heads times meta-tokens), K mixing rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mettle_cache.methods import fused, tiles
from mettle_cache.methods.tiles import PoolingGradient
from mettle_cache.tokens import LayerTokens

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tail:
    """What follows the pooling, a function ``[F, Q, D], [F, K, D], weights -> output`` that is affine in the first two.

    ``transpose`` takes the output's gradient, and the weights, to those of the two. It cannot depend on them, so the
    backward pass has it before it has read a token. Tensors that want a gradient are among the weights.
    """

    apply: Callable[[Tensor, Tensor, Weights], Tensor]
    transpose: Callable[[Tensor, Weights], tuple[Tensor, Tensor]]


def absorbed_pooling(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None = None, *, eps: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attend ``queries`` over tokens and mix tokens, straight from the stored codes.

    Parameters
    ----------
    tokens
        One layer, ``codes [F, N, D]`` (or packed), ``scale`` and ``zero`` ``[F, D]``. They get no gradient.
    queries
        ``[Q, D]`` (the same for every frame) or ``[F, Q, D]``, the logit scale already in them.
    mixing
        Optional ``[K, N]`` weights of the token-mixing branch; it sees the tokens without the norm.
    eps
        The LayerNorm's epsilon, or None for no norm on the attended tokens. The norm's weight and bias belong to the
        caller, who multiplies queries and context by the weight.

    Returns
    -------
    context
        ``[F, Q, D]``: sums of the (normalised) tokens under the softmax weights.
    mixed
        ``[F, K, D]``: ``mixing @ tokens``; K is 0 without ``mixing``.
    """
    result: tuple[Tensor, Tensor] = _Pooling.apply(tokens.codes, tokens.scale, tokens.zero, queries, mixing, eps)
    return result


def distil_tokens(
    tail: Tail,
    weights: Weights,
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None = None,
    *,
    eps: float | None = None,
) -> Tensor:
    """``tail.apply(*absorbed_pooling(...), weights)``, recomputed in the backward pass instead of kept."""
    output: Tensor = _Distillation.apply(
        tail, tuple(weights), tokens.codes, tokens.scale, tokens.zero, queries, mixing, eps, *weights.values()
    )
    return output


class _Pooling(torch.autograd.Function):
    """See :func:`absorbed_pooling`."""

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        queries: Tensor,
        mixing: Tensor | None,
        eps: float | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(codes, scale, zero, queries, mixing)
        ctx.eps = eps
        return _pool(LayerTokens(codes, scale, zero), queries, mixing, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, zero, queries, mixing = ctx.saved_tensors
        found = _pool_backward(LayerTokens(codes, scale, zero), queries, mixing, ctx.eps, d_context, d_mixed)
        return None, None, None, found.queries, found.mixing, None


class _Distillation(torch.autograd.Function):
    """See :func:`distil_tokens`."""

    @staticmethod
    def forward(
        ctx: Any,
        tail: Tail,
        names: tuple[str, ...],
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        queries: Tensor,
        mixing: Tensor | None,
        eps: float | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(codes, scale, zero, queries, mixing, *weights)
        ctx.tail, ctx.names, ctx.eps = tail, names, eps
        context, mixed = _pool(LayerTokens(codes, scale, zero), queries, mixing, eps)
        return tail.apply(context, mixed, dict(zip(names, weights, strict=True)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, zero, queries, mixing, *weights = ctx.saved_tensors
        tokens = LayerTokens(codes, scale, zero)
        named = dict(zip(ctx.names, weights, strict=True))
        d_context, d_mixed = ctx.tail.transpose(d_output, named)
        found = _pool_backward(tokens, queries, mixing, ctx.eps, d_context, d_mixed)
        leaves = {name: weight.detach().requires_grad_() for name, weight in named.items()}
        with torch.enable_grad():
            output = ctx.tail.apply(found.context, found.mixed, leaves)
        d_weights = torch.autograd.grad(output, list(leaves.values()), d_output)
        return None, None, None, None, None, found.queries, found.mixing, None, *d_weights


def _pool(tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    if fused.fits(tokens, queries):
        return fused.pool(tokens, queries, mixing, eps)
    return tiles.pool(tokens, queries, mixing, eps)


def _pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    way = fused.pool_backward if fused.fits(tokens, queries) else tiles.pool_backward
    return way(tokens, queries, mixing, eps, d_context, d_mixed)
