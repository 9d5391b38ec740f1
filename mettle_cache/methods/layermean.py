"""A learned mean of all layers' mean tokens, which tells what depth alone is worth, without LCD's attention.

Per modality ``z = sum_l softmax(a)_l (W_{D_l} mean(X_l) + b_{D_l})``: the weighted sum with which SUPERB probes speech
models (Yang et al. 2021, arXiv 2105.01051, section 3), whose weights ``a`` start alike. Their backbones have one width,
and one linear follows the sum. Here each width has a linear of its own, shared by the layers that have it. Where all
layers have one width the two are the same, because the weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.options import Options, Width
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class LayerMeanOptions(Options):
    """What the sum is made of; heads of segmentation, which mix the layers of each stage instead, use neither.

    Attributes
    ----------
    dim
        d, the width that the linears give.
    norm
        A LayerNorm without weights on the tokens before their mean, in every layer: then no layer counts for more
        because its tokens are larger. SUPERB's default is without.
    """

    dim: Width = 256
    norm: bool = False


class LayerMean(nn.Module):
    """One modality's layers to one vector a segment.

    Parameters count L, the layers, and ``D d + d`` for each of their different widths D.

    Parameters
    ----------
    layers
        The layers of one modality, all of which are read.
    options
        Default: those of :class:`LayerMeanOptions`.

    Raises
    ------
    UsageError
        No layers.
    """

    def __init__(self, layers: Sequence[LayerSpec], options: LayerMeanOptions | None = None) -> None:
        super().__init__()
        options = options or LayerMeanOptions()
        if not layers:
            raise UsageError("a mean over layers needs a layer")
        self.layers = tuple(layers)
        self.norm = options.norm
        # training and evaluation compile the kernels before their clocks start
        self.pools_tokens = self.norm
        self.output_dim = options.dim
        self.scores = nn.Parameter(torch.zeros(len(self.layers)))
        widths = sorted({layer.width for layer in self.layers})
        self.linears = nn.ModuleDict({str(width): nn.Linear(width, options.dim) for width in widths})

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``."""
        # shares near 1 / L stay in full precision, as LCD's mean; the products that autocast would speed up are tiny
        with torch.autocast(self.scores.device.type, enabled=False):
            return self._mean(tokens)

    def _mean(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        shares = self.scores.softmax(0)
        total: Tensor | None = None
        for key, module in self.linears.items():
            linear = cast(nn.Linear, module)
            chosen = [number for number, layer in enumerate(self.layers) if str(layer.width) == key]
            means = [mean_token(tokens[self.layers[number].name], shares.dtype, norm=self.norm) for number in chosen]
            # the shares of the layers of one width sum to less than 1
            summed = torch.stack(means, -1) @ shares[chosen]
            part = nn.functional.linear(summed, linear.weight) + shares[chosen].sum() * linear.bias
            total = part if total is None else total + part
        assert total is not None
        return total


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LayerMean(chosen, options))


KIND = MethodKind(LayerMeanOptions, _build)
