"""Meta-Token Injection: meta-tokens of the last layers, added to the tokens of earlier stages (Mettle, equation 3.4).

Per stage ``V ← V + softmax(V M_aᵀ) M_a``, then the same with ``M_v``: no projections of V, no scale. A linear for each
stage and modality maps the meta-tokens to the stage's width; where the width is theirs already there is none by
default (docs/protocols/avs.md, "Readings of the published totals", A).

Only inner products of the result are asked for, with the other meta-tokens and with a lateral's rows. These follow from
those of the stored tokens and of the meta-tokens, so no stage is decoded whole (docs/design.md, "Codes without
dequantisation").

Shapes: ``...`` leading axes (clips, segments), N tokens, D channels of a stage, K meta-tokens, d their width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.dense import token_products
from mettle_cache.options import Options
from mettle_cache.tokens import LayerTokens

StageNumber = Annotated[int, Field(ge=1, le=4)]
"""One of the four stages of a pyramid, counted from 1, fine to coarse."""

SoftmaxOver = Literal["meta_tokens", "positions"]


@dataclass(frozen=True, kw_only=True)
class MTIOptions(Options):
    """The switches of Table 11 and the text beside it.

    Attributes
    ----------
    cross, intra
        The two injections, of the audio and of the visual meta-tokens.
    order
        ``cross_first`` as published, or ``intra_first``; within 0.4 points of each other in the paper.
    inject_into
        The stages that are injected into. The others pass through unchanged.
    softmax_over
        ``meta_tokens`` as published, or ``positions``; see :meth:`InjectedTokens.inject`.
    identity
        Leave out the linear where a stage is as wide as the meta-tokens.
    """

    cross: bool = True
    intra: bool = True
    order: Literal["cross_first", "intra_first"] = "cross_first"
    inject_into: Annotated[tuple[StageNumber, ...], Field(max_length=4)] = (1, 2, 3, 4)
    softmax_over: SoftmaxOver = "meta_tokens"
    identity: bool = True

    def problems(self) -> Sequence[str]:
        return levels_problem("inject_into", self.inject_into)


def levels_problem(name: str, levels: Sequence[int]) -> tuple[str, ...]:
    """What is wrong with a choice of levels, if anything."""
    if levels and len(set(levels)) == len(levels):
        return ()
    return (f"{name} must name at least one level, each once",)


@dataclass(frozen=True)
class Injection:
    """Meta-tokens ``[..., K, D]`` of a stage's width and their shares ``[..., N, K]``, None for 1 at every position."""

    meta_tokens: Tensor
    shares: Tensor | None

    def products(self, vectors: Tensor) -> Tensor:
        """What it adds to the tokens' inner products with ``vectors [V, D]`` or ``[..., V, D]``: ``[..., N, V]``."""
        own = self.meta_tokens @ vectors.mT
        return own if self.shares is None else self.shares @ own


@dataclass(frozen=True)
class InjectedTokens:
    """A stage's tokens ``[..., N, D]`` with what was injected, which a dense head reads through a linear.

    They are never added up: injected meta-tokens are a matrix of rank K, and the codes stay codes.
    """

    tokens: LayerTokens
    injections: tuple[Injection, ...] = ()

    def products(self, vectors: Tensor) -> Tensor:
        """Inner products with ``vectors [V, D]``, or ``[..., V, D]`` for a frame each: ``[..., N, V]``."""
        return self._add_up(vectors, [])

    def project(self, linear: nn.Linear) -> Tensor:
        """``linear`` of every token: ``[..., N, C]``."""
        return self._add_up(linear.weight, [] if linear.bias is None else [linear.bias])

    def _add_up(self, vectors: Tensor, summands: Sequence[Tensor]) -> Tensor:
        """Products and summands; what is the same at all positions is added up before it meets them."""
        products = token_products(self.tokens, vectors)
        added = [*summands, *(injection.products(vectors) for injection in self.injections)]
        return products + functools.reduce(torch.add, added) if added else products

    def inject(self, meta_tokens: Tensor, *, softmax_over: SoftmaxOver = "meta_tokens") -> InjectedTokens:
        """One step of equation 3.4, with ``meta_tokens [..., K, D]``.

        Over the meta-tokens, as the paper writes it, a softmax over K = 1 is 1: the step adds one vector to every
        position. Over the positions each meta-token goes where it fits best, in shares that sum to 1 over the N
        positions.
        """
        shares = None
        if softmax_over == "positions" or meta_tokens.shape[-2] > 1:
            shares = self.products(meta_tokens).softmax(-1 if softmax_over == "meta_tokens" else -2)
        return InjectedTokens(self.tokens, (*self.injections, Injection(meta_tokens, shares)))


class MTI(nn.Module):
    """Inject audio (cross) and visual (intra) meta-tokens into stages of visual tokens.

    Parameters
    ----------
    stages
        The visual layers to read, first to last.
    dim
        d, of the meta-tokens of both modalities: the paper wants them equal.
    options
        Default: those of :class:`MTIOptions`.

    Raises
    ------
    UsageError
        No stages, or a stage to inject into that is not there.
    """

    def __init__(self, stages: Sequence[LayerSpec], dim: int, options: MTIOptions | None = None) -> None:
        super().__init__()
        options = options or MTIOptions()
        self.stages = tuple(stages)
        if max(options.inject_into) > len(self.stages):
            raise UsageError(
                f"MTI into stages {list(options.inject_into)}: there are {len(self.stages)} stages, counted from 1"
            )
        self.softmax_over = options.softmax_over
        sources = [name for name, used in (("cross", options.cross), ("intra", options.intra)) if used]
        self.sources = tuple(sources if options.order == "cross_first" else reversed(sources))
        self.linears = nn.ModuleDict(
            {
                f"{source}{place}": nn.Identity()
                if options.identity and stage.width == dim
                else nn.Linear(dim, stage.width)
                for source in sources
                for place, stage in enumerate(self.stages, start=1)
                if place in options.inject_into
            }
        )

    def forward(
        self, tokens: Mapping[str, LayerTokens], *, visual: Tensor | None, audio: Tensor | None
    ) -> list[InjectedTokens]:
        """Tokens of each stage with what was injected, from ``tokens [..., N, D]`` by layer name.

        ``visual`` and ``audio`` are meta-tokens ``[..., K, d]``; K may differ, and None serves where their injection is
        switched off.
        """
        by_source = {"cross": audio, "intra": visual}
        meta_tokens = {source: tensor for source in self.sources if (tensor := by_source[source]) is not None}
        updated = []
        for place, stage in enumerate(self.stages, start=1):
            features = InjectedTokens(tokens[stage.name])
            for source in self.sources:
                if f"{source}{place}" in self.linears:
                    aligned: Tensor = self.linears[f"{source}{place}"](meta_tokens[source])
                    features = features.inject(aligned, softmax_over=self.softmax_over)
            updated.append(features)
        return updated
