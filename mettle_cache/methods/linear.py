"""Linear probing of the last layer: the baseline that Layer-Centric Distillation has to beat (Mettle, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.options import Options, Width
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class LinearOptions(Options):
    """``dim`` is d, the width that the linear gives, one for both modalities, or ``none`` for the layer's own."""

    dim: Width | Literal["none"] = 256


class LinearProbe(nn.Module):
    """The mean token of the last layer, through one linear.

    Parameters
    ----------
    layers
        The layers of one modality; the last one is read.
    options
        Default: those of :class:`LinearOptions`.

    Raises
    ------
    UsageError
        No layers.
    """

    def __init__(self, layers: Sequence[LayerSpec], options: LinearOptions | None = None) -> None:
        super().__init__()
        dim = (options or LinearOptions()).dim
        if not layers:
            raise UsageError("a linear probe needs a layer")
        self.layer = layers[-1]
        self.layers = (self.layer,)
        self.output_dim = self.layer.width if isinstance(dim, str) else dim
        self.linear = nn.Linear(self.layer.width, self.output_dim)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``."""
        projected: Tensor = self.linear(mean_token(tokens[self.layer.name], self.linear.weight.dtype))
        return projected


def mean_token(tokens: LayerTokens, dtype: torch.dtype = torch.float32) -> Tensor:
    """Mean over the N tokens, ``[..., T, D]``: codes are averaged and only the mean is decoded."""
    if not tokens.format.affine:
        alike = torch.full((1, tokens.count), 1 / tokens.count, dtype=dtype, device=tokens.codes.device)
        pooled = absorbed_pooling(tokens.flatten_frames(), alike.new_empty(0, tokens.width), alike)[1]
        return pooled.view(*tokens.codes.shape[:-2], tokens.width)
    mean = tokens.format.unpack(tokens.codes).mean(dim=-2, dtype=dtype)
    if tokens.scale is None or tokens.zero is None:
        return mean
    return tokens.scale.to(dtype) * (mean + tokens.zero.to(dtype))


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LinearProbe(chosen, options))


KIND = MethodKind(LinearOptions, _build)
