"""MoLT's feature distillation of one layer: K tokens from its own tokens and from those of the other modality's layer.

Two adapters have K latent tokens each. The uni-modal one (UDA) attends its latents over the layer, the cross-modal one
(CDA) over the other modality's layer, aligned in width, and then over the layer itself:

    U = P_u + softmax(P_u Xᵀ / √D) X
    C = P_c + softmax(P_c Ỹᵀ / √D) Ỹ     with Ỹ = Y W_xᵀ + b,     then C ← C + softmax(C Xᵀ / √D) X

and each goes through a bottleneck of its own, ``u + LN(W_up ReLU(W_down LN(u)))``. A router weighs the two by the mean
tokens of both layers, and a linear maps the result to the common width.

No token is aligned, decoded or kept: ``softmax(P_c Ỹᵀ) Ỹ`` is ``W_x (softmax((P_c W_x) Yᵀ) Y) + b``, because the bias
adds the same to every logit and the weights sum to 1. So what is asked of a layer are a few queries of its own width
(:mod:`mettle_cache.methods.kernels.ops`). Which of this is the paper's: :mod:`mettle_cache.methods.molt`.

Shapes: F frames (B clips times T segments), N tokens of D channels, D' channels of the other modality's layer, K latent
tokens, d output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.tokens import LayerTokens

if TYPE_CHECKING:
    from mettle_cache.methods.molt import MoLTOptions

ROUTER_WIDTH = 128
# the uniform start of LAVisH's latents makes all cosines positive, and the orthogonality loss 0.4 before any training
_LATENT_STD = 0.02


class Bottleneck(nn.Module):
    """``u + LN(W_up ReLU(W_down LN(u)))``, the inner width D / r; it starts as the identity."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, width // reduction)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, latents: Tensor) -> Tensor:
        """``[..., D]``."""
        adapted: Tensor = self.norm_out(self.up(functional.relu(self.down(self.norm_in(latents)))))
        return latents + adapted


@dataclass(frozen=True)
class Answers:
    """What a layer's tokens gave to the queries of one side: contexts ``[F, K, D]``, and the mean token ``[F, D]``.

    K is 0 where nothing was asked; the mean is None where no router is to see it.
    """

    context: Tensor
    mean: Tensor | None


class LayerAdapters(nn.Module):
    """The adapters, the router and the linear of one layer.

    Parameters
    ----------
    layer, other
        The layer, and the other modality's that it is paired with.
    """

    def __init__(self, layer: LayerSpec, other: LayerSpec, options: MoLTOptions) -> None:
        super().__init__()
        self.layer, self.other, self.router_kind = layer, other, options.router
        width, count = layer.width, options.count
        self.scale = width**-0.5 if options.scale == "sqrt" else 1.0
        if options.router != "cda_only":
            self.uni_latents = nn.Parameter(torch.empty(count, width).normal_(std=_LATENT_STD))
            self.uni = Bottleneck(width, options.bottleneck)
        if options.router != "uda_only":
            self.cross_latents = nn.Parameter(torch.empty(count, width).normal_(std=_LATENT_STD))
            self.align = nn.Linear(other.width, width)
            self.cross = Bottleneck(width, options.bottleneck)
        if options.routes:
            self.router = nn.Sequential(nn.Linear(2 * width, ROUTER_WIDTH), nn.ReLU(), nn.Linear(ROUTER_WIDTH, 2))
        self.project = nn.Linear(width, options.dim)

    @property
    def latents(self) -> Tensor:
        """The latent tokens of its adapters, ``[K, D]`` or ``[2 K, D]``."""
        present = [getattr(self, name) for name in ("uni_latents", "cross_latents") if hasattr(self, name)]
        return torch.cat(present)

    def own_queries(self) -> Tensor:
        """What is asked of the layer's own tokens first, ``[K or 0, D]``."""
        if self.router_kind == "cda_only":
            return self.project.weight.new_empty(0, self.layer.width)
        return self.uni_latents * self.scale

    def other_queries(self) -> Tensor:
        """What is asked of the other modality's tokens, ``[K or 0, D']``, the alignment included."""
        if self.router_kind == "uda_only":
            return self.project.weight.new_empty(0, self.other.width)
        queries: Tensor = self.cross_latents @ self.align.weight * self.scale
        return queries

    def forward(self, tokens: LayerTokens, own: Answers, other: Answers) -> Tensor:
        """Layer-wise tokens ``[F, K, d]``, from the layer's F frames once more and the answers of both layers."""
        if self.router_kind == "uda_only":
            routed = self._uni_modal(own)
        elif self.router_kind == "cda_only":
            routed = self._cross_modal(tokens, other)
        else:
            both = torch.stack([self._uni_modal(own), self._cross_modal(tokens, other)], -1)
            if own.mean is not None and other.mean is not None:
                both = both * self.route(own.mean, other.mean)[:, None, None]
            routed = both.sum(-1)
        layer_tokens: Tensor = self.project(routed)
        return layer_tokens

    def route(self, own: Tensor, other: Tensor) -> Tensor:
        """The adapters' weights ``[F, 2]``, which sum to 1, from the mean tokens ``[F, D]`` and ``[F, D']``.

        Under ``top1`` they are 1 and 0, and have the gradient of the softmax.
        """
        weights: Tensor = self.router(torch.cat([own, self.align(other)], -1)).softmax(-1)
        if self.router_kind == "soft":
            return weights
        chosen = functional.one_hot(weights.argmax(-1), 2).to(weights.dtype)
        return chosen + weights - weights.detach()

    def _uni_modal(self, own: Answers) -> Tensor:
        latents: Tensor = self.uni(self.uni_latents + own.context)
        return latents

    def _cross_modal(self, tokens: LayerTokens, other: Answers) -> Tensor:
        latents = self.cross_latents + self.align(other.context)
        latents = latents + absorbed_pooling(tokens, latents * self.scale)[0]
        adapted: Tensor = self.cross(latents)
        return adapted
