"""Direct connection: the last layer's mean token, straight to the decoder, nothing learned before it (Mettle, Table 5).

The widths stay those of the two backbones. A decoder that wants one width gets an input layer for each modality
(:mod:`mettle_cache.tasks.input_layers`), as the paper's peers have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.options import Options
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class DirectOptions(Options):
    """The backbones' final norms.

    Attributes
    ----------
    norm_visual, norm_audio
        A LayerNorm without weights on the tokens before their mean. The published code of the peers (DG-SCT) applies
        Swin's final norm and not HTS-AT's. Where sound goes through the visual backbone, too, set both alike. Heads of
        segmentation read the stages as they are, without either.
    """

    norm_visual: bool = True
    norm_audio: bool = False

    def norm(self, modality: str) -> bool:
        """Whether this modality's tokens are normalised."""
        return self.norm_visual if modality == "visual" else self.norm_audio


class LastMeanToken(nn.Module):
    """The mean token of the last layer as it is; nothing to train.

    Parameters
    ----------
    layers
        The layers of one modality; the last one is read.
    options
        Default: those of :class:`DirectOptions`.

    Raises
    ------
    UsageError
        No layers.
    """

    native_width = True

    def __init__(self, layers: Sequence[LayerSpec], options: DirectOptions | None = None) -> None:
        super().__init__()
        options = options or DirectOptions()
        if not layers:
            raise UsageError("Direct needs a layer")
        self.layer = layers[-1]
        self.layers = (self.layer,)
        self.norm = options.norm(self.layer.modality)
        # training and evaluation compile the kernels before their clocks start
        self.pools_tokens = self.norm
        self.output_dim = self.layer.width
        # follows the model's precision, because there is no parameter to do so
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, D]`` from ``tokens`` by layer name, each ``[B, T, N, D]``."""
        return mean_token(tokens[self.layer.name], self.unit.dtype, norm=self.norm)


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LastMeanToken(chosen, options))


KIND = MethodKind(DirectOptions, _build)
