"""Attention of a few queries over many stored tokens, without projecting or expanding the tokens.

Keys and values need no projection of their own: ``u = W_Kᵀ q`` is one D-vector a head, logits are ``X u`` and the
context is ``αᵀ X``. The token-mixing branch ``W_g X`` is K more rows of the second product. Both run on the stored
codes (reference.py in PyTorch, cpu/pooling.py compiled), and so does the backward pass, which is written by hand: it
reads the codes again and recomputes the weights.

Exact: outputs and gradients agree with ``nn.MultiheadAttention`` to float64
rounding (tests/methods). Source: architecture.md, ideas 1 and 2.

:func:`distil_tokens` goes on to the meta-tokens (tail.py) and recomputes even the pooled tokens, so that nothing at all
of a layer is kept for the backward pass but its codes, which belong to the reader.

Shapes: F frames (B clips times T segments), N tokens, D channels, Q queries (heads times meta-tokens), C contexts, K
mixing rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.cpu import pooling
from mettle_cache.methods.kernels.projections import TailWeights, finish, pooled_gradients, weight_gradients
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.tokens import LayerTokens, TokenFormat


def absorbed_pooling(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None = None,
    *,
    eps: float | None = None,
    contexts: int | None = None,
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
    contexts
        C, which divides Q: contexts of the queries q, q + C, q + 2 C, ... are added up. None for Q, all on their own.

    Returns
    -------
    context
        ``[F, C, D]``: sums of the (normalised) tokens under the softmax weights.
    mixed
        ``[F, K, D]``: ``mixing @ tokens``; K is 0 without ``mixing``.
    """
    result: tuple[Tensor, Tensor] = _Pooling.apply(
        tokens.format, *(tokens.codes, tokens.scale, tokens.zero, queries, mixing), eps, contexts
    )
    return result


def distil_tokens(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    weights: TailWeights,
    *,
    heads: int,
    eps: float | None = None,
    contexts: int | None = None,
) -> Tensor:
    """Pool as :func:`absorbed_pooling`, then :func:`mettle_cache.methods.kernels.projections.finish`.

    Gives ``[F, K, D]``, or ``[F, K, d]``.

    What was pooled is recomputed in the backward pass instead of kept. ``queries`` are K H, those of a meta-token
    together; where their contexts are added up to H, the output is one, for ``weights`` of the sum.
    """
    output: Tensor = _Distillation.apply(
        tokens.format, *(tokens.codes, tokens.scale, tokens.zero, queries, mixing), heads, eps, contexts, *weights
    )
    return output


class _Pooling(torch.autograd.Function):
    """See :func:`absorbed_pooling`."""

    @staticmethod
    def forward(
        ctx: Any,
        form: TokenFormat,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        queries: Tensor,
        mixing: Tensor | None,
        eps: float | None,
        contexts: int | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(codes, scale, zero, queries, mixing)
        ctx.form, ctx.eps = form, eps
        context, mixed = _pool(_tokens(form, codes, scale, zero), queries, mixing, eps, contexts)
        return context.transpose(0, 1), mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, zero, queries, mixing = ctx.saved_tensors
        tokens = _tokens(ctx.form, codes, scale, zero)
        found = _pool_backward(tokens, queries, mixing, ctx.eps, d_context.transpose(0, 1), d_mixed)
        return None, None, None, None, found.queries, found.mixing, None, None


class _Distillation(torch.autograd.Function):
    """See :func:`distil_tokens`."""

    @staticmethod
    def forward(
        ctx: Any,
        form: TokenFormat,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        queries: Tensor,
        mixing: Tensor | None,
        heads: int,
        eps: float | None,
        contexts: int | None,
        *weights: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(codes, scale, zero, queries, mixing, *weights)
        ctx.form, ctx.heads, ctx.eps = form, heads, eps
        context, mixed = _pool(_tokens(form, codes, scale, zero), queries, mixing, eps, contexts)
        return finish(context, mixed, TailWeights(*weights), heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, zero, queries, mixing, *given = ctx.saved_tensors
        tokens, weights = _tokens(ctx.form, codes, scale, zero), TailWeights(*given)
        back, d_context, d_mixed = pooled_gradients(d_output, weights, ctx.heads)
        d_mixed = d_mixed[:, : 0 if mixing is None else mixing.shape[0]]
        found = _pool_backward(tokens, queries, mixing, ctx.eps, d_context, d_mixed)
        d_weights = weight_gradients(found.context, found.mixed, d_output, back, weights, ctx.heads)
        return None, None, None, None, found.queries, found.mixing, None, None, None, *d_weights


def _tokens(form: TokenFormat, codes: Tensor, scale: Tensor | None, zero: Tensor | None) -> LayerTokens:
    return LayerTokens(codes, form, {} if scale is None or zero is None else {"scale": scale, "zero": zero})


def _pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int | None
) -> tuple[Tensor, Tensor]:
    way = pooling.pool if pooling.fits(tokens, queries) else reference.pool
    return way(tokens, queries, mixing, eps, queries.shape[-2] if contexts is None else contexts)


def _pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    way = pooling.pool_backward if pooling.fits(tokens, queries) else reference.pool_backward
    return way(tokens, queries, mixing, eps, d_context, d_mixed)
