"""From a layer's tokens to its meta-tokens, or to their sum: pooled as ops.py chooses, then projected (projections.py).

The backward pass is written by hand. It pools the tokens again, so nothing of a layer is kept for it but its codes,
which are in the reader's memory anyway. Layers of one stage are alike. Where a machine's kernel takes several in one
launch they are pooled together: a launch of one layer has too few programs to keep a GPU busy.

Shapes: F frames (B clips times T segments), N tokens, D channels, K meta-tokens, H attention heads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mettle_cache.methods.kernels.ops import StageImplementation, choose_implementation, stage_implementation
from mettle_cache.methods.kernels.projections import ProjectionWeights, finish, pooled_gradients, weight_gradients
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.methods.kernels.saved_tokens import save_tokens, saved_tokens
from mettle_cache.tokens import LayerTokens


class Distillation(NamedTuple):
    """What a layer's distillation takes: arguments of :func:`~mettle_cache.methods.kernels.ops.absorbed_pooling`, and
    the weights that follow.

    ``queries`` are K H, those of a meta-token together; where their contexts are added up to H (``contexts``), the
    output is one, for ``weights`` of the sum.
    """

    tokens: LayerTokens
    queries: Tensor
    mixing: Tensor | None
    weights: ProjectionWeights
    heads: int
    eps: float | None
    contexts: int

    @property
    def kind(self) -> Hashable:
        """The same for layers that a kernel can pool together."""
        shapes = [None if tensor is None else tensor.shape for tensor in (self.queries, self.mixing)]
        codes = self.tokens.codes
        return self.tokens.format, codes.shape, codes.dtype, codes.device, *shapes, self.eps, self.contexts


def distil_tokens(distillation: Distillation) -> Tensor:
    """``[F, K, D]``, or ``[F, K, d]`` with a projection."""
    (output,) = _Distillations.apply(None, [distillation], *_leaves(distillation))
    return cast(Tensor, output)


def distil_layers(distillations: Sequence[Distillation]) -> list[Tensor]:
    """:func:`distil_tokens` of each; layers of one kind together, where the machine's kernel takes several."""
    groups: dict[Hashable, list[int]] = {}
    for number, one in enumerate(distillations):
        groups.setdefault(one.kind, []).append(number)
    outputs: dict[int, Tensor] = {}
    for numbers in groups.values():
        members = [distillations[number] for number in numbers]
        stage = stage_implementation(members[0].tokens, members[0].queries)
        if stage is None or len(members) == 1:
            outputs |= zip(numbers, map(distil_tokens, members), strict=True)
        else:
            leaves = [leaf for member in members for leaf in _leaves(member)]
            outputs |= zip(numbers, _Distillations.apply(stage, members, *leaves), strict=True)
    return [outputs[number] for number in range(len(distillations))]


def _leaves(distillation: Distillation) -> tuple[Tensor | None, ...]:
    """The tensors that get gradients."""
    return distillation.queries, distillation.mixing, *distillation.weights


class _Distillations(torch.autograd.Function):
    """The outputs of one layer, or of several that ``stage`` pools together."""

    @staticmethod
    def forward(
        ctx: Any, stage: StageImplementation | None, members: Sequence[Distillation], *leaves: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.stage, ctx.members, saved = stage, [], list(leaves)
        for member in members:
            form, tensors = save_tokens(member.tokens)
            ctx.members.append((form, member.heads, member.eps, member.contexts))
            saved += tensors
        ctx.save_for_backward(*saved)
        pooled = _pool(stage, members)
        return tuple(
            finish(context, mixed, member.weights, member.heads)
            for member, (context, mixed) in zip(members, pooled, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        members = list(_restored(ctx))
        projected = [
            pooled_gradients(d_output, member.weights, member.heads)
            for d_output, member in zip(d_outputs, members, strict=True)
        ]
        d_pooled = [
            (d_context, d_mixed[:, : 0 if member.mixing is None else member.mixing.shape[0]])
            for member, (_, d_context, d_mixed) in zip(members, projected, strict=True)
        ]
        gradients: list[Tensor | None] = []
        for member, d_output, (outputs, _, _), pooled in zip(
            members, d_outputs, projected, _pool_backward(ctx.stage, members, d_pooled), strict=True
        ):
            way = choose_implementation(member.tokens, member.queries)
            of_weights = weight_gradients(
                *(pooled.context, pooled.mixed, d_output, outputs, member.weights, member.heads),
                norm_gradients=way.norm_gradients,
            )
            gradients += [pooled.queries, pooled.mixing, *of_weights]
        return None, None, *gradients


def _restored(ctx: Any) -> Iterator[Distillation]:
    """The layers again, from what was saved."""
    count = 2 + len(ProjectionWeights._fields)
    saved: Iterator[Any] = iter(ctx.saved_tensors)
    leaves = [tuple(islice(saved, count)) for _ in ctx.members]
    for (queries, mixing, *weights), (form, heads, eps, contexts) in zip(leaves, ctx.members, strict=True):
        tokens = saved_tokens(form, tuple(islice(saved, form.tensors)))
        yield Distillation(tokens, queries, mixing, ProjectionWeights(*weights), heads, eps, contexts)


def _pool(stage: StageImplementation | None, members: Sequence[Distillation]) -> list[tuple[Tensor, Tensor]]:
    first = members[0]
    if stage is None:
        way = choose_implementation(first.tokens, first.queries)
        return [way.pool(first.tokens, first.queries, first.mixing, first.eps, first.contexts)]
    return stage.pool_stage(
        [member.tokens for member in members],
        [member.queries for member in members],
        [member.mixing for member in members],
        first.eps,
        first.contexts,
    )


def _pool_backward(
    stage: StageImplementation | None, members: Sequence[Distillation], d_pooled: Sequence[tuple[Tensor, Tensor]]
) -> list[PoolingGradient]:
    first = members[0]
    if stage is None:
        way = choose_implementation(first.tokens, first.queries)
        return [way.pool_backward(first.tokens, first.queries, first.mixing, first.eps, *d_pooled[0])]
    return stage.pool_stage_backward(
        [member.tokens for member in members],
        [member.queries for member in members],
        [member.mixing for member in members],
        first.eps,
        [d_context for d_context, _ in d_pooled],
        [d_mixed for _, d_mixed in d_pooled],
    )
