"""The input projection of ``nn.MultiheadAttention`` as the absorbed attention uses it: queries folded with the keys.

The three projections are one weight. Autograd would give each part a gradient of its own and then copy all three into
one; written by hand, queries' and keys' gradients are computed where they belong. Source: architecture.md, idea 1.

Shapes: K meta-tokens, H heads, D channels, E = D / H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import linear


def fold_inputs(asked: Tensor, weight: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``W_Kᵀ q`` of each head, ``[..., K, H, D]``, the logit scale included; and ``W_V [D, D]`` with its bias.

    ``asked [..., K, D]`` ask, ``weight [3 D, D]`` and ``bias [3 D]`` are queries', keys' and values'. A key's bias
    cancels in the softmax.
    """
    folded: tuple[Tensor, Tensor, Tensor] = _Fold.apply(asked, weight, bias, heads)
    return folded


class _Fold(Function):
    """See :func:`fold_inputs`."""

    @staticmethod
    def forward(ctx: Any, asked: Tensor, weight: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(asked, weight, bias)
        ctx.heads = heads
        query, key, value = weight.chunk(3)
        query_bias, _, value_bias = bias.chunk(3)
        projected = _scaled(linear(asked, query, query_bias).flatten(0, -2), heads)
        folded = torch.bmm(projected, key.unflatten(0, (heads, -1))).transpose(0, 1)
        return folded.unflatten(0, asked.shape[:-1]), value, value_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_folded: Tensor, d_value: Tensor, d_value_bias: Tensor) -> tuple[Tensor | None, ...]:
        asked, weight, bias = ctx.saved_tensors
        heads, width = ctx.heads, asked.shape[-1]
        query, key, _ = (part.unflatten(0, (heads, -1)) for part in weight.chunk(3))
        d_weight, d_bias = torch.empty_like(weight), torch.zeros_like(bias)
        d_query, d_key, _ = (part.unflatten(0, (heads, -1)) for part in d_weight.chunk(3))
        rows, d_rows = asked.flatten(0, -2), d_folded.flatten(0, -3).transpose(0, 1)
        projected = _scaled(linear(rows, weight[:width], bias[:width]), heads)
        torch.bmm(projected.mT, d_rows, out=d_key)
        d_projected = torch.bmm(d_rows, key.mT) * (width // heads) ** -0.5
        torch.bmm(d_projected.mT, rows.expand(heads, -1, -1), out=d_query)
        d_weight[2 * width :] = d_value
        d_bias[:width] = d_projected.sum(1).flatten()
        d_bias[2 * width :] = d_value_bias
        d_asked = torch.bmm(d_projected, query).sum(0).view_as(asked)
        return d_asked, d_weight, d_bias, None


def _scaled(projected: Tensor, heads: int) -> Tensor:
    """Rows ``[M, D]`` by head, ``[H, M, E]``, times the logit scale."""
    by_head: Tensor = projected.unflatten(-1, (heads, -1)).transpose(0, 1)
    return by_head.mul(by_head.shape[-1] ** -0.5)
