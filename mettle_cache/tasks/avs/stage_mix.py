"""Stages that are made of several layers: the map of a level is a weighted sum of the tokens of its stage's layers.

It is what the method layermean is for a dense head: depth within a stage, without meta-tokens. Where a store has one
layer a stage, that is Direct with a learned scale. Ours: the paper has no such row.

Shapes: F frames, N tokens, D channels of a stage, C channels of the pyramid.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.dense import token_products
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True)
class MixedTokens:
    """Layers of one stage, ``[F, N, D]`` each, and the weight of each; the sum is never made."""

    layers: Sequence[LayerTokens]
    weights: Sequence[Tensor]

    def project(self, linear: nn.Linear) -> Tensor:
        """``linear`` of the weighted sum: ``[F, N, C]``, from products of the stored codes."""
        products = [
            weight * token_products(tokens, linear.weight)
            for tokens, weight in zip(self.layers, self.weights, strict=True)
        ]
        summed = functools.reduce(torch.add, products)
        return summed if linear.bias is None else summed + linear.bias


class StageMix(nn.Module):
    """``scale * softmax(scores)``, the weights of the layers of each stage; they start as a plain mean.

    ``stages`` are the layers of each, fine to coarse.
    """

    def __init__(self, stages: Sequence[Sequence[LayerSpec]]) -> None:
        super().__init__()
        self.stages = tuple(tuple(stage) for stage in stages)
        self.scores = nn.ParameterList(torch.zeros(len(stage)) for stage in self.stages)
        self.scales = nn.Parameter(torch.ones(len(self.stages)))

    def forward(self, frames: Mapping[str, LayerTokens]) -> list[MixedTokens]:
        """From tokens ``[F, N, D]`` by layer name."""
        weights = [scale * scores.softmax(0) for scale, scores in zip(self.scales, self.scores, strict=True)]
        return [
            MixedTokens([frames[layer.name] for layer in stage], each.unbind())
            for stage, each in zip(self.stages, weights, strict=True)
        ]


def stage_layers(layers: Sequence[LayerSpec], levels: Sequence[LayerSpec]) -> tuple[tuple[LayerSpec, ...], ...]:
    """The layers of each level of a pyramid: of ``layers`` those after the level before, up to the level's own.

    Only layers of the level's grid and width belong to it.
    """
    places = [layers.index(level) for level in levels]
    starts = [0, *(place + 1 for place in places[:-1])]
    return tuple(
        tuple(each for each in layers[start : place + 1] if (each.grid, each.width) == (level.grid, level.width))
        for start, place, level in zip(starts, places, levels, strict=True)
    )
