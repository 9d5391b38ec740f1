"""Ladder Side-Tuning of one modality: a narrow transformer that takes in one layer's tokens after the other.

LST (Sung et al., NeurIPS 2022), after its code for T5 and CLIP-ViL, on stored tokens. With side width m,

    s_0 = Down_0(X_0)     s_l = Block_l(mu_l s_(l-1) + (1 - mu_l) Down_l(X_l))     mu_l = sigmoid(alpha_l / 0.1)

and the vector of a segment is the mean over the tokens of ``Linear(LN(s_L))``. What is ours: all layers meet on the
grid of the last one, finer ones averaged over its cells, so that the side network has neither windows nor patch
merging. See docs/methods.md, "LST".

Shapes: B clips, T segments, F frames (B T), N tokens, n those of the last layer, D channels of a layer, m the side
network's, d output channels, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.dense import project_tokens
from mettle_cache.methods.pooled import PooledLayer, common_grid, pooled_tokens
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.methods.side_options import Preset, SideOptions
from mettle_cache.tokens import LayerTokens

# of the gates, as in T5's and CLIP-ViL's code
TEMPERATURE = 0.1
HEAD_DIM = 48
FEED_FORWARD = 4


@dataclass(frozen=True, kw_only=True)
class LSTOptions(SideOptions):
    """How wide the side network is (:class:`SideOptions`), and the switches of the published code.

    Presets: ``official`` has r = 4 (CLIP-ViL), ``tiny`` r = 8 (T5). ``matched`` is 488 and 244 wide, which makes the
    paper's total for event localisation with Swin-V2-L and HTS-AT. Its total for video parsing wants 568 and 284 on the
    stage outputs and ``dim`` = 128: set ``width_visual``, ``width_audio`` and ``dim``.

    Attributes
    ----------
    drop_layers
        Names of layers that have no block in the side network and are not read.
    gate
        ``learned`` (mu), or ``sum``: what comes in is added, without weights.
    merge
        Take in a layer ``before`` its block or ``after``.
    """

    reductions: ClassVar[Mapping[Preset, int]] = {"official": 4, "tiny": 8}
    widths: ClassVar[Mapping[Preset, Mapping[str, int]]] = {"matched": {"visual": 488, "audio": 244}}

    drop_layers: Annotated[tuple[str, ...], Field(max_length=256)] = ()
    gate: Literal["learned", "sum"] = "learned"
    merge: Literal["before", "after"] = "before"


class LST(nn.Module):
    """The side network of one modality.

    Where the patch embedding (block 0) is among the layers, the state starts from it and all blocks' layers are taken
    in; otherwise it starts from the first layer, which is not taken in again.

    Parameters
    ----------
    layers
        Those offered, of one modality.
    options
        Default: those of :class:`LSTOptions`.

    Raises
    ------
    UsageError
        No block's layer is left, or the layers do not meet on the last one's grid.
    """

    def __init__(self, layers: Sequence[LayerSpec], options: LSTOptions | None = None) -> None:
        super().__init__()
        options = options or LSTOptions()
        self.layers = tuple(layer for layer in layers if layer.name not in options.drop_layers)
        blocks = sum(layer.block > 0 for layer in self.layers)
        if not blocks:
            raise UsageError("LST needs at least one layer after the patch embedding that is not dropped")
        grid, last = common_grid(self.layers), self.layers[-1]
        self._pooled = {
            layer.name: PooledLayer(layer=layer, grid=grid, how="mean") for layer in self.layers if layer.grid != grid
        }
        self.pooled = tuple(self._pooled.values())
        width, self.output_dim, self._after = options.width(last), options.dim, options.merge == "after"
        self.downs = nn.ModuleList(nn.Linear(layer.width, width) for layer in self.layers)
        self.blocks = nn.ModuleList(side_block(width) for _ in range(blocks))
        gates = torch.zeros(len(self.layers) - 1) if options.gate == "learned" else None
        self.alphas = None if gates is None else nn.Parameter(gates)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, options.dim)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``; layers that are not read are ignored."""
        first = self._read(0, tokens)
        state, blocks = first.flatten(0, 1), list(self.blocks)
        if len(blocks) == len(self.layers):  # no patch embedding: the first block's layer is there already
            state = blocks.pop(0)(state)
        for number, block in enumerate(blocks, start=1):
            taken = self._read(number, tokens).flatten(0, 1)
            if self._after:
                state = self._merge(block(state), taken, number)
            else:
                state = block(self._merge(state, taken, number))
        means: Tensor = self.up(self.norm(state).mean(1)).unflatten(0, first.shape[:2])
        return means

    def gates(self) -> Tensor | None:
        """mu of each layer that is taken in, in order, or None where these are added up."""
        return None if self.alphas is None else (self.alphas / TEMPERATURE).sigmoid()

    def _read(self, number: int, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``Down(X)`` of a layer on the last one's grid: ``[B, T, n, m]``."""
        layer, down = self.layers[number], cast(nn.Linear, self.downs[number])
        pooled = self._pooled.get(layer.name)
        if pooled is None:
            return project_tokens(tokens[layer.name], down)
        projected: Tensor = down(pooled_tokens(tokens, pooled, down.weight.dtype))
        return projected

    def _merge(self, state: Tensor, taken: Tensor, number: int) -> Tensor:
        gates = self.gates()
        return state + taken if gates is None else taken + gates[number - 1] * (state - taken)


def side_block(width: int) -> nn.TransformerEncoderLayer:
    """A transformer block of ``12 m^2 + 13 m`` parameters: pre-norm, feed-forward 4 m, no dropout."""
    return nn.TransformerEncoderLayer(
        *(width, attention_heads(width), FEED_FORWARD * width),
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


def attention_heads(width: int) -> int:
    """The number of heads that makes them nearest to 48 channels, by ratio: 8 for 384, 4 for 192."""
    counts = [count for count in range(1, width + 1) if width % count == 0]
    return min(counts, key=lambda count: max(width / count / HEAD_DIM, HEAD_DIM * count / width))


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LST(chosen, options))


KIND = MethodKind(LSTOptions, _build, names_layers="drop_layers")
