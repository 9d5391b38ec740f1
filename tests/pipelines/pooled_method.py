"""A method that reads its layers on a coarser grid: each cell through a linear of its layer, then the cells' mean."""

from dataclasses import dataclass

from torch import nn

from mettle_cache.methods.pooled import PooledLayer, pooled_tokens
from mettle_cache.methods.protocol import MetaTokens, Method, MethodKind, layers_of
from mettle_cache.options import Count, Options


@dataclass(frozen=True, kw_only=True)
class PooledOptions(Options):
    dim: Count = 12
    how: str = "mean"
    side: Count = 2


class Pooled(Method):
    def __init__(self, layers, options):
        super().__init__()
        self.layers = tuple(layer for modality in ("visual", "audio") for layer in layers_of(layers, modality))
        hows = ("mean", "max") if options.how == "both" else (options.how,)
        self.pooled = tuple(
            PooledLayer(layer=layer, grid=(options.side, options.side), how=how)
            for layer in self.layers
            for how in hows
        )
        self.visual_dim = self.audio_dim = options.dim
        self.linears = nn.ModuleList(nn.Linear(each.layer.width, options.dim) for each in self.pooled)

    def forward(self, tokens):
        sums = {"visual": 0, "audio": 0}
        for each, linear in zip(self.pooled, self.linears, strict=True):
            sums[each.layer.modality] = sums[each.layer.modality] + linear(pooled_tokens(tokens, each)).relu().mean(-2)
        return MetaTokens(sums["visual"], sums["audio"])


KIND = MethodKind(PooledOptions, Pooled)
