"""Attention of a few queries over many stored tokens, without projecting or expanding the tokens.

Tokens are not projected to keys and values: ``u = W_Kᵀ q`` is one D-vector a head, logits are ``X u`` and the context
is ``αᵀ X``. The token-mixing branch ``W_g X`` is K more rows of the second product. Both products run on the stored
codes. So does the backward pass, which is written by hand: it reads the codes again and recomputes the weights.
Exact: outputs and gradients agree with ``nn.MultiheadAttention`` to float64 rounding (tests/methods). Source:
docs/design.md, "Absorbed attention" and "Codes without dequantisation".

This is the one place that chooses how tokens are pooled: :data:`IMPLEMENTATIONS` has a row for each way, of which the
first one that fits the tokens and queries is taken. distillation.py goes on to the meta-tokens.

Shapes: F frames (B clips times T segments), N tokens, D channels, Q queries (heads times meta-tokens), C contexts, K
mixing rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mettle_cache.methods.kernels import klt, reference
from mettle_cache.methods.kernels.cpu import pooling
from mettle_cache.methods.kernels.cuda import pooling as gpu_pooling
from mettle_cache.methods.kernels.cuda.machine import tell_what_is_missing
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.methods.kernels.saved_tokens import save_tokens, saved_tokens
from mettle_cache.tokens import LayerTokens


class Implementation(Protocol):
    """A way to pool tokens: a module with these functions, and a row of :data:`IMPLEMENTATIONS`."""

    def fits(self, tokens: LayerTokens, queries: Tensor) -> bool:
        """Whether it can pool these tokens, on the queries' device and in their precision."""

    def pool(
        self, tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
    ) -> tuple[Tensor, Tensor]:
        """``context [C, F, D]`` and ``mixed [F, K, D]`` of :func:`absorbed_pooling`."""

    def pool_backward(
        self,
        tokens: LayerTokens,
        queries: Tensor,
        mixing: Tensor | None,
        eps: float | None,
        d_context: Tensor,
        d_mixed: Tensor,
    ) -> PoolingGradient:
        """Read the tokens again and go back from ``d_context [C, F, D]`` and ``d_mixed [F, K, D]``."""

    def norm_gradients(
        self, d_normed: Tensor, d_shift: Tensor, values: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From ``values * norm`` and ``values @ norm_bias`` back to ``norm`` and ``norm_bias [D]``, whose gradients it
        gives, and to ``values [D, D]``, whose gradient takes the place of ``d_normed``; ``d_shift`` is ``[D]``."""

    def announced(self, note: Callable[[str], None], device: torch.device) -> AbstractContextManager[None]:
        """Call ``note`` once if something is compiled inside the block for tokens on ``device``."""


class StageImplementation(Implementation, Protocol):
    """One that also takes several layers of one stage at once; a row of :data:`STAGE_IMPLEMENTATIONS`."""

    def pool_stage(
        self,
        tokens: Sequence[LayerTokens],
        queries: Sequence[Tensor],
        mixing: Sequence[Tensor | None],
        eps: float | None,
        contexts: int,
    ) -> list[tuple[Tensor, Tensor]]:
        """What ``pool`` gives of each layer; their arrays have the same shapes."""

    def pool_stage_backward(
        self,
        tokens: Sequence[LayerTokens],
        queries: Sequence[Tensor],
        mixing: Sequence[Tensor | None],
        eps: float | None,
        d_context: Sequence[Tensor],
        d_mixed: Sequence[Tensor],
    ) -> list[PoolingGradient]:
        """What ``pool_backward`` gives of each layer."""


IMPLEMENTATIONS: tuple[Implementation, ...] = (pooling, gpu_pooling, klt, reference)
STAGE_IMPLEMENTATIONS: tuple[StageImplementation, ...] = (gpu_pooling,)


def choose_implementation(tokens: LayerTokens, queries: Tensor) -> Implementation:
    """The first that fits; the reference fits everything."""
    return next(way for way in IMPLEMENTATIONS if way.fits(tokens, queries))


def stage_implementation(tokens: LayerTokens, queries: Tensor) -> StageImplementation | None:
    """The way that is chosen for these, if it takes several such layers at once."""
    chosen = choose_implementation(tokens, queries)
    return next((way for way in STAGE_IMPLEMENTATIONS if way is chosen), None)


def layers_side_by_side(tokens: LayerTokens) -> bool:
    """Whether to distil each layer on its own thread: on a CPU, where a single layer leaves cores idle."""
    return tokens.codes.device.type == "cpu"


def pools_tokens(model: nn.Module) -> bool:
    """Whether a module of the model calls these functions: it then has an attribute ``pools_tokens`` that is true."""
    return any(getattr(module, "pools_tokens", False) for module in model.modules())


def compile_kernels(layers: Iterable[LayerTokens], note: Callable[[str], None]) -> None:
    """Compile now what pooling these layers in float32 needs, so that no later measurement of time includes it.

    Parameters
    ----------
    layers
        Some tokens of each layer, ``[B, T, N, D]``; one frame of each kind is pooled, forward and backward.
    note
        Called before the first function is compiled, if any is not in the machine's cache.
    """
    kinds = {(tokens.codes.device, tokens.format.name, tokens.codes.dtype): tokens for tokens in layers}
    frames = [tokens.flatten_frames()[:1] for tokens in kinds.values()]
    queries = [torch.zeros(1, frame.width, device=frame.codes.device) for frame in frames]
    ways = [choose_implementation(*pair) for pair in zip(frames, queries, strict=True)]
    tell_what_is_missing((frame.codes.device for frame in frames), note)
    with ExitStack() as announcements:
        for way, device in dict.fromkeys((way, frame.codes.device) for way, frame in zip(ways, frames, strict=True)):
            announcements.enter_context(way.announced(note, device))
        for way, frame, query in zip(ways, frames, queries, strict=True):
            context, mixed = way.pool(frame, query, None, None, 1)
            way.pool_backward(frame, query, None, None, context, mixed)
            way.norm_gradients(*(query.new_zeros(size) for size in ((1, 1), 1, (1, 1), 1, 1)))


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
        One layer of F frames, in any format. They get no gradient.
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
    result: tuple[Tensor, Tensor] = _Pooling.apply(tokens, queries, mixing, eps, contexts)
    return result


class _Pooling(torch.autograd.Function):
    """See :func:`absorbed_pooling`."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: LayerTokens,
        queries: Tensor,
        mixing: Tensor | None,
        eps: float | None,
        contexts: int | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.form, tensors = save_tokens(tokens)
        ctx.save_for_backward(queries, mixing, *tensors)
        ctx.eps = eps
        way = choose_implementation(tokens, queries)
        context, mixed = way.pool(tokens, queries, mixing, eps, queries.shape[-2] if contexts is None else contexts)
        return context.transpose(0, 1), mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        queries, mixing, *saved = ctx.saved_tensors
        tokens = saved_tokens(ctx.form, saved)
        way = choose_implementation(tokens, queries)
        gradient = way.pool_backward(tokens, queries, mixing, ctx.eps, d_context.transpose(0, 1), d_mixed)
        return None, gradient.queries, gradient.mixing, None, None
