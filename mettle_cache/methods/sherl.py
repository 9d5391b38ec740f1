"""SHERL of one modality: what all layers say, without repetition, enters the backbone's last block, which is replayed.

SHERL (Diao et al., ECCV 2024), after its code for VSE-infinity, CLIP-ViL and CLIP4Clip, on stored tokens. With side
width m, for the layers l before the last block L, and at each token by itself:

    f_l = Down_l(X_l)                                    the guide is the deepest, f_(L-1); i, j are the others
    rho_i = sum over j of relu(cos(f_i, f_j))            redundancy, at least 1, because i is among the j
    w_i = L1norm over i of relu(w·(f_i * guide) + b) / rho_i
    g = guide + sum over i of w_i f_i
    y = LN(Linear(relu(g))) + tanh(theta / 0.1) X_(L-1)  theta from 0, so the raw stream starts with weight 0
    Z = FinalNorm(Block_L(y))                            frozen, with gradients through it

and the vector of a segment is ``Linear`` of the mean over the tokens of Z. ``L1norm(x) = x / (sum of |x| + 1e-6)``,
so where no weight is positive the guide is alone. What is ours: LayerNorm where the convolutional form has batch norm,
and the mean at the end. See docs/methods.md, "SHERL".

Shapes: B clips, T segments, N tokens of the last grid, D channels of a layer, m the side network's, d output channels,
L layers that are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from mettle_cache.companions import Companion
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import bundle_name
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.late_block import FrozenLateBlock
from mettle_cache.methods.pooled import PooledLayer, common_grid, pooled_tokens
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.methods.side_options import Preset, SideOptions
from mettle_cache.tokens import LayerTokens

# of the raw stream's gate
TEMPERATURE = 0.1
EPS = 1e-6
_AGAIN = "the same mettle extract command again writes it, beside a finished store too"
_WITHOUT = "sherl.late_blocks=0 does without"


@dataclass(frozen=True, kw_only=True)
class SHERLOptions(SideOptions):
    """How wide the side network is (:class:`SideOptions`), and the forms of the published code.

    Presets: ``official`` has r = 2, ``tiny`` r = 8. ``matched`` is 1104 and 552 wide and gated: 346.5 M in event
    localisation with Swin-V2-L and HTS-AT, where the paper counts 347.7 M.

    Attributes
    ----------
    down
        ``ln`` (VSE-infinity, MDETR): a linear and a LayerNorm; ``gated`` (CLIP-ViL, T5): ``h = relu(W1 x)``,
        ``(W2 h + h) * sigmoid(W3 h)``; ``preset``: what the preset says, ``ln`` but for ``matched``.
    late_blocks
        1: replay the last block. 0 (CLIP4Clip): the last layer is the guide, and what the side network makes is added
        to it instead; nothing of the backbone is needed.
    """

    reductions: ClassVar[Mapping[Preset, int]] = {"official": 2, "tiny": 8}
    widths: ClassVar[Mapping[Preset, Mapping[str, int]]] = {"matched": {"visual": 1104, "audio": 552}}

    down: Literal["ln", "gated", "preset"] = "preset"
    late_blocks: Literal[0, 1] = 1

    @property
    def gated(self) -> bool:
        return self.preset == "matched" if self.down == "preset" else self.down == "gated"


class SHERL(nn.Module):
    """The side network of one modality, and the frozen block behind it.

    Layers of finer grids are read pooled to the last one: the maximum and the mean of each cell, added. So a layer of a
    backbone with stages that is on that grid already counts twice, as in the published convolutional form.

    Parameters
    ----------
    layers
        Those offered, of one modality; those from block L on are left out.
    options
        Default: those of :class:`SHERLOptions`.
    companions
        Those that there are, by name; the late bundle of the modality is read.

    Raises
    ------
    UsageError
        There is no late bundle or it says that there is no block to replay, or the layer before the block is not among
        ``layers``, or the layers do not meet on its grid.
    StoreCorruptError, StoreKeyError
        The late bundle is damaged, or another store's.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        options: SHERLOptions | None = None,
        companions: Mapping[str, Companion] | None = None,
    ) -> None:
        super().__init__()
        options = options or SHERLOptions()
        self.late: FrozenLateBlock | None = None
        self.companions: tuple[str, ...] = ()
        if options.late_blocks:
            name = bundle_name(layers[0].modality)
            self.late, self.companions = _frozen_block(companions or {}, name), (name,)
            layers = _layers_before(layers, self.late)
        self.layers, self.guide = tuple(layers), layers[-1]
        grid = common_grid(self.layers)
        self._pooled = {layer.name: _both(layer, grid) for layer in self.layers if layer.grid != grid}
        self.pooled = tuple(pooled for both in self._pooled.values() for pooled in both)
        width, self.output_dim = options.width(self.guide), options.dim
        down = GatedDown if options.gated else NormedDown
        self.downs = nn.ModuleDict({_key(layer): down(layer.width, width) for layer in self.layers})
        self.confidence = nn.Linear(width, 1)
        self.up = nn.Linear(width, self.guide.width)
        self.norm = nn.LayerNorm(self.guide.width)
        self.theta = nn.Parameter(torch.zeros(())) if self.late is not None else None
        self.out = nn.Linear(self.guide.width, options.dim)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``; layers that are not read are ignored."""
        features = [self.downs[_key(layer)](self._read(layer, tokens)) for layer in self.layers]
        *others, guide = features
        if others:
            guide = guide + aggregate(torch.stack(others, dim=-2), guide, self.confidence)
        side = self.norm(self.up(guide.relu()))
        raw = self._floats(self.guide, tokens)
        if self.late is None or self.theta is None:
            late = side + raw
        else:
            late = self.late(side + torch.tanh(self.theta / TEMPERATURE) * raw)
        vectors: Tensor = self.out(late.mean(dim=-2))
        return vectors

    def _read(self, layer: LayerSpec, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """A layer on the last grid, ``[B, T, N, D]``."""
        if layer.name in self._pooled:
            mean, largest = (pooled_tokens(tokens, pooled, self._dtype) for pooled in self._pooled[layer.name])
            return mean + largest
        floats = self._floats(layer, tokens)
        # cells of one token: its maximum and its mean are the token
        return 2 * floats if self.guide.stage > 1 else floats

    def _floats(self, layer: LayerSpec, tokens: Mapping[str, LayerTokens]) -> Tensor:
        return tokens[layer.name].floats(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.up.weight.dtype


class NormedDown(nn.Sequential):
    """Linear and LayerNorm, D to m."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__(nn.Linear(width, side), nn.LayerNorm(side))


class GatedDown(nn.Module):
    """``h = relu(W1 x)`` and ``(W2 h + h) * sigmoid(W3 h)``, D to m."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(width, side), nn.Linear(side, side), nn.Linear(side, side)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        gated: Tensor = (self.second(hidden) + hidden) * self.third(hidden).sigmoid()
        return gated


def redundancy(features: Tensor) -> Tensor:
    """``rho [..., L]`` of ``features [..., L, m]``: how far each is what all of them are; from 1 to L.

    One of length 0 is like none of the others.
    """
    products = features @ features.mT
    lengths = products.diagonal(dim1=-2, dim2=-1).clamp(min=EPS**2).sqrt()
    cosines = products / (lengths.unsqueeze(-1) * lengths.unsqueeze(-2))
    # a token's likeness to itself is 1, whatever rounding makes of it
    itself = torch.eye(features.shape[-2], dtype=torch.bool, device=features.device)
    return 1 + cosines.masked_fill(itself, 0).relu().sum(dim=-1)


def aggregate(features: Tensor, guide: Tensor, confidence: nn.Linear) -> Tensor:
    """``sum of w_i f_i``, ``[..., m]``, of ``features [..., L, m]`` under ``guide [..., m]``, as in the equations."""
    scores = confidence(features * guide.unsqueeze(-2)).squeeze(-1).relu() / redundancy(features)
    weights = scores / (scores.sum(dim=-1, keepdim=True) + EPS)
    summed: Tensor = (weights.unsqueeze(-2) @ features).squeeze(-2)
    return summed


def _frozen_block(companions: Mapping[str, Companion], name: str) -> FrozenLateBlock:
    if name not in companions:
        raise UsageError(
            f"SHERL replays the backbone's last block, and there is no {name} beside the store",
            hint=f"{_AGAIN}; {_WITHOUT}",
        )
    try:
        return FrozenLateBlock(companions[name], name)
    except UsageError as error:
        raise UsageError(f"SHERL replays the backbone's last block: {error.message}", hint=_WITHOUT) from error


def _layers_before(layers: Sequence[LayerSpec], late: FrozenLateBlock) -> tuple[LayerSpec, ...]:
    """The layers before the frozen block, down to the one whose tokens enter it."""
    last, before = late.block.layer, late.block.before
    chosen = tuple(layer for layer in layers if (layer.stage, layer.block) < (last.stage, last.block))
    deepest = chosen[-1] if chosen else None
    if deepest is None or (deepest.name, deepest.tokens, deepest.width) != (before.name, before.tokens, before.width):
        raise UsageError(
            f"SHERL replays {last.name} from the tokens of {before.name}, which is not among the layers",
            hint=f"select it too, as in layers=stages,{before.name}, of a store that has it",
        )
    return chosen


def _both(layer: LayerSpec, grid: tuple[int, int]) -> tuple[PooledLayer, PooledLayer]:
    """Mean and maximum of a layer on a coarser grid."""
    return PooledLayer(layer=layer, grid=grid, how="mean"), PooledLayer(layer=layer, grid=grid, how="max")


def _key(layer: LayerSpec) -> str:
    """``s3b07`` of ``visual/s3b07``: a name that a state dict's key may contain."""
    return layer.name.split("/")[1]


def _build(layers: Sequence[LayerSpec], options: Any, companions: Mapping[str, Companion]) -> PerModality:
    return PerModality(layers, lambda chosen: SHERL(chosen, cast(SHERLOptions, options), companions))


KIND = MethodKind(SHERLOptions, _build, reads_companions=True)
