"""A method as another package would bring it: the last layers' mean tokens, one linear, and a loss of its own."""

from dataclasses import dataclass

import torch
from torch import nn

from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import MetaTokens, Method, MethodKind, layers_of
from mettle_cache.options import Count, Options


@dataclass(frozen=True, kw_only=True)
class MeanOptions(Options):
    dim: Count = 12
    weight: float = 0.5
    companion: str = ""


class Mean(Method):
    def __init__(self, layers, options):
        super().__init__()
        self.layers = tuple(layers_of(layers, modality)[-1] for modality in ("visual", "audio"))
        self.visual_dim = self.audio_dim = options.dim
        self.companions = (options.companion,) if options.companion else ()
        self.weight = options.weight
        self.linears = nn.ModuleList(nn.Linear(layer.width, options.dim) for layer in self.layers)

    def forward(self, tokens):
        visual, audio = (
            linear(mean_token(tokens[layer.name])) for layer, linear in zip(self.layers, self.linears, strict=True)
        )
        return MetaTokens(visual, audio, {"size": self.weight * torch.stack([visual, audio]).square().mean()})


KIND = MethodKind(MeanOptions, Mean)
