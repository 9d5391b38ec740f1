"""What follows the pooling in a layer: value, output and common projections, and the mixing branch's bias.

It is affine in the pooled tokens, so their gradients need only the output's. That is what lets the backward pass visit
the tokens once: it brings those gradients along, and takes the pooled tokens, which nobody kept, home for the gradients
of the weights. Written by hand, because autograd would run the chain once more for each of the two. Source: equations
3.1 (its arrow replaces the meta-tokens) and 3.2; spec-avel.md section 8.

Shapes: F frames, K meta-tokens, H heads, D channels, E = D / H, d outputs. Pooled are ``context [K H, F, D]`` and
``mixed [F, K, D]``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class TailWeights(NamedTuple):
    """Parameters by what they do; those of a branch that is switched off are None.

    ``values [D, D]`` and ``out [D, D]`` are ``nn.MultiheadAttention``'s, ``norm [D]`` belongs to the LayerNorm on the
    attended tokens, ``mix_bias [K]`` to the mixing branch, ``residual [F, K, D]`` is added to the meta-tokens, and
    ``projection [d, D]`` follows.
    """

    values: Tensor | None = None
    values_bias: Tensor | None = None
    norm: Tensor | None = None
    norm_bias: Tensor | None = None
    out: Tensor | None = None
    out_bias: Tensor | None = None
    mix_bias: Tensor | None = None
    residual: Tensor | None = None
    projection: Tensor | None = None
    projection_bias: Tensor | None = None

    def of_sum(self, count: int) -> TailWeights:
        """What makes the sum of ``count`` meta-tokens of the sums of their contexts and of their mixed tokens."""
        return self._replace(
            values_bias=_times(count, self.values_bias),
            norm_bias=_times(count, self.norm_bias),
            out_bias=_times(count, self.out_bias),
            mix_bias=None if self.mix_bias is None else self.mix_bias.sum(0, keepdim=True),
            residual=None if self.residual is None else self.residual.sum(1, keepdim=True),
            projection_bias=_times(count, self.projection_bias),
        )


class TailGradient(NamedTuple):
    """What the output's gradient alone gives: those of the meta-tokens and of the attended values ``[F, K, D]``.

    ``values [H, E, D]`` are the normed values on the way to them, which the weights' gradients need again.
    """

    meta_tokens: Tensor
    attended: Tensor | None = None
    values: Tensor | None = None


def finish(context: Tensor, mixed: Tensor, weights: TailWeights, heads: int) -> Tensor:
    """``[F, K, D]``, or ``[F, K, d]`` with a projection."""
    values = None if weights.values is None else _normed_values(weights, heads)
    meta_tokens = _meta_tokens(_attend(context, weights, values), mixed, weights)
    if weights.projection is None:
        return meta_tokens
    return linear(meta_tokens, weights.projection, weights.projection_bias)


def pooled_gradients(d_output: Tensor, weights: TailWeights, heads: int) -> tuple[TailGradient, Tensor, Tensor]:
    """Gradients on the way, and at its end those of ``context`` and ``mixed``, whether or not there is a branch."""
    d_meta_tokens = d_output if weights.projection is None else d_output @ weights.projection
    if weights.values is None or weights.out is None:
        frames, _, width = d_meta_tokens.shape
        return TailGradient(d_meta_tokens), d_meta_tokens.new_empty(0, frames, width), d_meta_tokens
    d_attended = d_meta_tokens @ weights.out
    values = _normed_values(weights, heads)
    d_context = _each(_by_head(d_attended, heads), values)
    return TailGradient(d_meta_tokens, d_attended, values), d_context.flatten(0, 1), d_meta_tokens


def weight_gradients(
    context: Tensor, mixed: Tensor, d_output: Tensor, back: TailGradient, weights: TailWeights, heads: int
) -> TailWeights:
    """Gradients of the weights, None where there is no weight."""
    attended = _attend(context, weights, back.values)
    found = TailWeights()
    if attended is not None and back.attended is not None:
        d_out, d_out_bias = _linear_gradients(back.meta_tokens, attended)
        found = _value_gradients(context, back.attended, weights, heads)._replace(out=d_out, out_bias=d_out_bias)
    if weights.projection is not None:
        d_projection, d_bias = _linear_gradients(d_output, _meta_tokens(attended, mixed, weights))
        found = found._replace(projection=d_projection, projection_bias=d_bias)
    return found._replace(
        mix_bias=None if weights.mix_bias is None else back.meta_tokens.sum((0, 2)),
        residual=None if weights.residual is None else back.meta_tokens,
    )


def _attend(context: Tensor, weights: TailWeights, values: Tensor | None) -> Tensor | None:
    """Attended values before the output projection, ``[F, K, D]``; None without that branch."""
    if values is None or weights.values is None or weights.values_bias is None:
        return None
    by_head = _each(context.unflatten(0, (-1, values.shape[0])), values.mT)
    shift = weights.values_bias
    if weights.norm_bias is not None:
        shift = shift + weights.values @ weights.norm_bias
    attended: Tensor = by_head.permute(2, 0, 1, 3).flatten(2) + shift
    return attended


def _meta_tokens(attended: Tensor | None, mixed: Tensor, weights: TailWeights) -> Tensor:
    parts = [] if attended is None else [linear(attended, _given(weights.out), weights.out_bias)]
    parts += [] if weights.residual is None else [weights.residual]
    parts += [mixed] if mixed.shape[1] else []
    parts += [] if weights.mix_bias is None else [weights.mix_bias.unsqueeze(-1)]
    return functools.reduce(torch.add, parts)


def _value_gradients(context: Tensor, d_attended: Tensor, weights: TailWeights, heads: int) -> TailWeights:
    values = _given(weights.values)
    first, *others = zip(_by_head(d_attended, heads).mT, context.unflatten(0, (-1, heads)), strict=True)
    by_head = torch.bmm(*first)
    for gradient, given in others:
        by_head.baddbmm_(gradient, given)
    d_normed, d_shift = by_head.flatten(0, 1), d_attended.sum((0, 1))
    if weights.norm is None or weights.norm_bias is None:
        return TailWeights(values=d_normed, values_bias=d_shift)
    d_norm, d_norm_bias = _leave_norm(d_normed, d_shift, values, weights.norm, weights.norm_bias)
    return TailWeights(values=d_normed, values_bias=d_shift, norm=d_norm, norm_bias=d_norm_bias)


def _leave_norm(
    d_normed: Tensor, d_shift: Tensor, values: Tensor, norm: Tensor, norm_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the norm's weight and bias; that of the normed values becomes, in its place, that of the values."""
    if values.device.type == "cpu" and values.dtype == torch.float32:
        from mettle_cache.methods.kernels.cpu.weights import leave_norm

        found = torch.empty_like(norm), torch.empty_like(norm_bias)
        given = (d_normed, d_shift, values, norm, norm_bias, *found)
        leave_norm(*(tensor.detach().numpy() for tensor in given))
        return found
    d_norm = (d_normed * values).sum(0)
    d_normed.mul_(norm).addr_(d_shift, norm_bias)
    return d_norm, d_shift @ values


def _normed_values(weights: TailWeights, heads: int) -> Tensor:
    """``W_V`` by head with the norm's weight in it, ``[H, E, D]``: fewer numbers than contexts to scale."""
    values = _given(weights.values)
    normed: Tensor = (values if weights.norm is None else values * weights.norm).unflatten(0, (heads, -1))
    return normed


def _by_head(attended: Tensor, heads: int) -> Tensor:
    """``[F, K, D]`` to ``[K, H, F, E]``."""
    split: Tensor = attended.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    return split


def _each(pooled: Tensor, matrices: Tensor) -> Tensor:
    """``pooled [K, H, F, *] @ matrices [H, *, *]``, meta-token by meta-token: a broadcast would copy the matrices."""
    products = pooled.new_empty(*pooled.shape[:3], matrices.shape[-1])
    for own, out in zip(pooled, products, strict=True):
        torch.bmm(own, matrices, out=out)
    return products


def _linear_gradients(d_output: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight and bias of a projection of ``given [F, K, *]``."""
    return d_output.flatten(0, 1).mT @ given.flatten(0, 1), d_output.sum((0, 1))


def _times(count: int, bias: Tensor | None) -> Tensor | None:
    return None if bias is None else count * bias


def _given(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight
