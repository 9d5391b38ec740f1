"""The mean token of every layer, all of them side by side, through one linear a modality."""

from dataclasses import dataclass

import torch
from torch import nn

from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import MetaTokens, Method, MethodKind, layers_of
from mettle_cache.options import Count, Options


@dataclass(frozen=True, kw_only=True)
class MeansOptions(Options):
    """``dim`` is d, the width of both outputs; ``penalty`` weighs an auxiliary loss that keeps them small."""

    dim: Count = 16
    penalty: float = 0.0


class Means(Method):
    """``[B, T, N, D]`` of every layer to ``[B, T, d]`` of each modality."""

    def __init__(self, layers, options):
        super().__init__()
        self.layers = tuple(layers)
        self.penalty = options.penalty
        self.visual_dim = self.audio_dim = options.dim
        self.visual, self.audio = (
            nn.Linear(sum(layer.width for layer in layers_of(layers, modality)), options.dim)
            for modality in ("visual", "audio")
        )

    def forward(self, tokens):
        visual, audio = (
            linear(torch.cat([mean_token(tokens[layer.name]) for layer in layers_of(self.layers, modality)], -1))
            for linear, modality in ((self.visual, "visual"), (self.audio, "audio"))
        )
        penalty = self.penalty * (visual.square().mean() + audio.square().mean())
        return MetaTokens(visual, audio, {"penalty": penalty})


MEANS = MethodKind(MeansOptions, Means)
