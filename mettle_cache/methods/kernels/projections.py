"""The projections of LCD's attention: the queries' and keys' before tokens are pooled, the others after it.

Before pooling, the keys' projection is multiplied into the queries (:func:`fold_keys`), so tokens are never projected.
The three projections of ``nn.MultiheadAttention`` are parts of one weight. Autograd would compute a gradient of each
part and then copy all three into one; the backward pass written by hand writes them where they belong.

After pooling come the value, output and common projections and the mixing branch's bias (:func:`finish`). All of it is
affine in the pooled tokens, so the pooled tokens' gradients follow from the output's alone. Therefore the backward pass
reads the tokens only once: :func:`pooled_gradients` comes first; then the tokens are read, which gives the queries'
gradients and the pooled tokens again; from these :func:`weight_gradients` computes the weights' gradients. Autograd
would run the whole chain twice.

Source: docs/design.md, "Absorbed attention"; equations 3.1 (its arrow replaces the meta-tokens) and 3.2;
docs/protocols/avel.md, "Parameter accounting".

Shapes: F frames, K meta-tokens, H heads, D channels, E = D / H, d outputs. Pooled are ``context [K H, F, D]`` and
``mixed [F, K, D]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import linear

# see norm_gradients of mettle_cache.methods.kernels.ops.Implementation
NormGradients = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fold_keys(queries: Tensor, weight: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``W_Kᵀ q`` of each head, ``[..., K, H, D]``, the logit scale included; and ``W_V [D, D]`` with its bias.

    ``queries [..., K, D]`` are not projected yet; ``weight [3 D, D]`` and ``bias [3 D]`` are queries', keys' and
    values'. A key's bias cancels in the softmax.
    """
    folded: tuple[Tensor, Tensor, Tensor] = _KeysFolded.apply(queries, weight, bias, heads)
    return folded


class _KeysFolded(Function):
    """See :func:`fold_keys`."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, weight: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(queries, weight, bias)
        ctx.heads = heads
        query, key, value = weight.chunk(3)
        query_bias, _, value_bias = bias.chunk(3)
        projected = _scaled(linear(queries, query, query_bias).flatten(0, -2), heads)
        folded = torch.bmm(projected, key.unflatten(0, (heads, -1))).transpose(0, 1)
        return folded.unflatten(0, queries.shape[:-1]), value, value_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_folded: Tensor, d_value: Tensor, d_value_bias: Tensor) -> tuple[Tensor | None, ...]:
        queries, weight, bias = ctx.saved_tensors
        heads, width = ctx.heads, queries.shape[-1]
        query, key, _ = (part.unflatten(0, (heads, -1)) for part in weight.chunk(3))
        d_weight, d_bias = torch.empty_like(weight), torch.zeros_like(bias)
        d_query, d_key, _ = (part.unflatten(0, (heads, -1)) for part in d_weight.chunk(3))
        rows, d_rows = queries.flatten(0, -2), d_folded.flatten(0, -3).transpose(0, 1)
        projected = _scaled(linear(rows, weight[:width], bias[:width]), heads)
        torch.bmm(projected.mT, d_rows, out=d_key)
        d_projected = torch.bmm(d_rows, key.mT) * (width // heads) ** -0.5
        torch.bmm(d_projected.mT, rows.expand(heads, -1, -1), out=d_query)
        d_weight[2 * width :] = d_value
        d_bias[:width] = d_projected.sum(1).flatten()
        d_bias[2 * width :] = d_value_bias
        d_queries = torch.bmm(d_projected, query).sum(0).view_as(queries)
        return d_queries, d_weight, d_bias, None


def _scaled(projected: Tensor, heads: int) -> Tensor:
    """Rows ``[M, D]`` by head, ``[H, M, E]``, times the logit scale."""
    by_head: Tensor = projected.unflatten(-1, (heads, -1)).transpose(0, 1)
    return by_head.mul(by_head.shape[-1] ** -0.5)


class ProjectionWeights(NamedTuple):
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

    def of_sum(self, count: int) -> ProjectionWeights:
        """Weights that turn the sums of contexts and of mixed tokens into the sum of ``count`` meta-tokens."""
        return self._replace(
            values_bias=_times(count, self.values_bias),
            norm_bias=_times(count, self.norm_bias),
            out_bias=_times(count, self.out_bias),
            mix_bias=None if self.mix_bias is None else self.mix_bias.sum(0, keepdim=True),
            residual=None if self.residual is None else self.residual.sum(1, keepdim=True),
            projection_bias=_times(count, self.projection_bias),
        )


class ProjectionGradient(NamedTuple):
    """Gradients that follow from the output's alone: of the meta-tokens and of the attended values, ``[F, K, D]``.

    ``values [H, E, D]`` is the values' projection with the norm's weight in it, which :func:`weight_gradients` needs.
    """

    meta_tokens: Tensor
    attended: Tensor | None = None
    values: Tensor | None = None


def finish(context: Tensor, mixed: Tensor, weights: ProjectionWeights, heads: int) -> Tensor:
    """``[F, K, D]``, or ``[F, K, d]`` with a projection."""
    values = None if weights.values is None else _normed_values(weights, heads)
    meta_tokens = _meta_tokens(_attend(context, weights, values), mixed, weights)
    if weights.projection is None:
        return meta_tokens
    return linear(meta_tokens, weights.projection, weights.projection_bias)


def pooled_gradients(
    d_output: Tensor, weights: ProjectionWeights, heads: int
) -> tuple[ProjectionGradient, Tensor, Tensor]:
    """The intermediate gradients, and those of ``context`` and ``mixed``, whether or not there is such a branch."""
    d_meta_tokens = d_output if weights.projection is None else d_output @ weights.projection
    if weights.values is None or weights.out is None:
        frames, _, width = d_meta_tokens.shape
        return ProjectionGradient(d_meta_tokens), d_meta_tokens.new_empty(0, frames, width), d_meta_tokens
    d_attended = d_meta_tokens @ weights.out
    values = _normed_values(weights, heads)
    d_context = _multiply_each(_by_head(d_attended, heads), values)
    return ProjectionGradient(d_meta_tokens, d_attended, values), d_context.flatten(0, 1), d_meta_tokens


def weight_gradients(
    context: Tensor,
    mixed: Tensor,
    d_output: Tensor,
    on_the_way: ProjectionGradient,
    weights: ProjectionWeights,
    heads: int,
    *,
    norm_gradients: NormGradients,
) -> ProjectionWeights:
    """Gradients of the weights, None where there is no weight; ``on_the_way`` comes from :func:`pooled_gradients`."""
    attended = _attend(context, weights, on_the_way.values)
    gradients = ProjectionWeights()
    if attended is not None and on_the_way.attended is not None:
        d_out, d_out_bias = _linear_gradients(on_the_way.meta_tokens, attended)
        gradients = _value_gradients(context, on_the_way.attended, weights, heads, norm_gradients)
        gradients = gradients._replace(out=d_out, out_bias=d_out_bias)
    if weights.projection is not None:
        d_projection, d_bias = _linear_gradients(d_output, _meta_tokens(attended, mixed, weights))
        gradients = gradients._replace(projection=d_projection, projection_bias=d_bias)
    return gradients._replace(
        mix_bias=None if weights.mix_bias is None else on_the_way.meta_tokens.sum((0, 2)),
        residual=None if weights.residual is None else on_the_way.meta_tokens,
    )


def _attend(context: Tensor, weights: ProjectionWeights, values: Tensor | None) -> Tensor | None:
    """Attended values before the output projection, ``[F, K, D]``; None without that branch."""
    if values is None or weights.values is None or weights.values_bias is None:
        return None
    by_head = _multiply_each(context.unflatten(0, (-1, values.shape[0])), values.mT)
    shift = weights.values_bias
    if weights.norm_bias is not None:
        shift = shift + weights.values @ weights.norm_bias
    attended: Tensor = by_head.permute(2, 0, 1, 3).flatten(2) + shift
    return attended


def _meta_tokens(attended: Tensor | None, mixed: Tensor, weights: ProjectionWeights) -> Tensor:
    parts = [] if attended is None else [linear(attended, _present(weights.out), weights.out_bias)]
    parts += [] if weights.residual is None else [weights.residual]
    parts += [mixed] if mixed.shape[1] else []
    parts += [] if weights.mix_bias is None else [weights.mix_bias.unsqueeze(-1)]
    return functools.reduce(torch.add, parts)


def _value_gradients(
    context: Tensor, d_attended: Tensor, weights: ProjectionWeights, heads: int, norm_gradients: NormGradients
) -> ProjectionWeights:
    """Gradients of the values' projection and of the norm before it."""
    first, *others = zip(_by_head(d_attended, heads).mT, context.unflatten(0, (-1, heads)), strict=True)
    by_head = torch.bmm(*first)
    for d_meta_token, of_meta_token in others:
        by_head.baddbmm_(d_meta_token, of_meta_token)
    d_normed, d_shift = by_head.flatten(0, 1), d_attended.sum((0, 1))
    if weights.norm is None or weights.norm_bias is None:
        return ProjectionWeights(values=d_normed, values_bias=d_shift)
    d_norm, d_norm_bias = norm_gradients(d_normed, d_shift, _present(weights.values), weights.norm, weights.norm_bias)
    return ProjectionWeights(values=d_normed, values_bias=d_shift, norm=d_norm, norm_bias=d_norm_bias)


def _normed_values(weights: ProjectionWeights, heads: int) -> Tensor:
    """``W_V`` by head, times the norm's weight, ``[H, E, D]``: it has fewer numbers to scale than the contexts."""
    values = _present(weights.values)
    normed: Tensor = (values if weights.norm is None else values * weights.norm).unflatten(0, (heads, -1))
    return normed


def _by_head(attended: Tensor, heads: int) -> Tensor:
    """``[F, K, D]`` to ``[K, H, F, E]``."""
    split: Tensor = attended.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    return split


def _multiply_each(pooled: Tensor, matrices: Tensor) -> Tensor:
    """``pooled [K, H, F, *] @ matrices [H, *, *]``, meta-token by meta-token: a broadcast would copy the matrices."""
    products = pooled.new_empty(*pooled.shape[:3], matrices.shape[-1])
    for of_meta_token, product in zip(pooled, products, strict=True):
        torch.bmm(of_meta_token, matrices, out=product)
    return products


def _linear_gradients(d_output: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias of a projection of ``inputs [F, K, *]``."""
    return d_output.flatten(0, 1).mT @ inputs.flatten(0, 1), d_output.sum((0, 1))


def _times(count: int, bias: Tensor | None) -> Tensor | None:
    return None if bias is None else count * bias


def _present(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight
