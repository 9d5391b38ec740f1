"""Linear probing of the last layer: the baseline that Layer-Centric Distillation has to beat (Mettle, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.options import Options, Width
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class LinearOptions(Options):
    """The linear's width and start, and the norm before it; docs/methods.md, "Linear probing", has the paper's row.

    Attributes
    ----------
    dim
        d, the width that the linear gives, one for both modalities, or ``none`` for the layer's own.
    init
        How the linear starts: as PyTorch's do, or as the ``identity``, which is Direct before the first step. The
        identity wants the layer's own width.
    norm_visual, norm_audio
        A LayerNorm without weights on the tokens before their mean.
    """

    dim: Width | Literal["none"] = 256
    init: Literal["default", "identity"] = "default"
    norm_visual: bool = False
    norm_audio: bool = False

    def problems(self) -> Sequence[str]:
        if self.init == "identity" and self.dim != "none":
            return (f"init = 'identity' keeps the layer's width, so dim must be 'none', not {self.dim}",)
        return ()

    def norm(self, modality: str) -> bool:
        """Whether this modality's tokens are normalised."""
        return self.norm_visual if modality == "visual" else self.norm_audio


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
        options = options or LinearOptions()
        if not layers:
            raise UsageError("a linear probe needs a layer")
        self.layer = layers[-1]
        self.layers = (self.layer,)
        self.norm = options.norm(self.layer.modality)
        # training and evaluation compile the kernels before their clocks start
        self.pools_tokens = self.norm
        self.output_dim = self.layer.width if isinstance(options.dim, str) else options.dim
        self.linear = nn.Linear(self.layer.width, self.output_dim)
        if options.init == "identity":
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``."""
        dtype: torch.dtype = self.linear.weight.dtype
        projected: Tensor = self.linear(mean_token(tokens[self.layer.name], dtype, norm=self.norm))
        return projected


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LinearProbe(chosen, options))


KIND = MethodKind(LinearOptions, _build)
