"""Universal Parallel Tuning of one modality: every layer in parallel, mixed by what the last one asks for.

UniPT (Diao et al., CVPR 2024), after its code for VSE-infinity. With side width m, the last layer is the anchor and the
others, brought to its grid, interact with it:

    A = Down_L(X_L)     T_l = Down_l(X_l)     Down = LN(Linear)
    P_l = L1norm(relu(A T_l^T)) + I           c_l = w·(mean A * mean T_l) + b     gamma = softmax of c over l
    M = sum of gamma_l P_l T_l                Y = Linear(relu(A + LN(Linear(M))))

``L1norm(x) = x / (sum of |x| + 1e-6)`` by row, means are over tokens, and the vector of a segment is that of Y. Layers
of finer grids go through guided pooling (kernels/guided.py), with the guide ``relu(Linear(X_L))``. What is ours:
LayerNorm where the convolutional form has batch norm, guides shared by the layers of a stage, and the mean at the end.
See docs/methods.md, "UniPT".

Shapes: B clips, T segments, N tokens, n those of the last layer, D channels of a layer, m the side network's, d output
channels, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.dense import project_tokens
from mettle_cache.methods.kernels.guided import EPS, Cells, guided_pooling
from mettle_cache.methods.pooled import common_grid
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.methods.side_options import Preset, SideOptions
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True, kw_only=True)
class UniPTOptions(SideOptions):
    """How wide the side network is (:class:`SideOptions`), and how many guides it has.

    Presets: ``official`` has r = 2, ``tiny`` r = 8. ``matched`` is 2048 and 1024 wide, with a guide for each layer:
    336.5 M in event localisation with Swin-V2-L and HTS-AT, the nearest to the paper's 343.2 M that keeps the form; no
    setting makes its totals of both tasks.

    Attributes
    ----------
    share_guide
        One guide for the layers of each stage that is finer than the anchor; or, as in the published code, one for each
        layer but the anchor. Of a layer on the anchor's grid, where a cell is one token, it can only double tokens.
    """

    reductions: ClassVar[Mapping[Preset, int]] = {"official": 2, "tiny": 8}
    widths: ClassVar[Mapping[Preset, Mapping[str, int]]] = {"matched": {"visual": 2048, "audio": 1024}}

    share_guide: bool | Literal["preset"] = "preset"

    @property
    def shares_guides(self) -> bool:
        return self.preset != "matched" if isinstance(self.share_guide, str) else self.share_guide


class UniPT(nn.Module):
    """The side network of one modality.

    Parameters
    ----------
    layers
        Those offered, of one modality; all are read, the last one is the anchor.
    options
        Default: those of :class:`UniPTOptions`.

    Raises
    ------
    UsageError
        There is no layer beside the anchor, or the layers do not meet on its grid.
    """

    def __init__(self, layers: Sequence[LayerSpec], options: UniPTOptions | None = None) -> None:
        super().__init__()
        options = options or UniPTOptions()
        if len(layers) < 2:
            raise UsageError(
                f"UniPT needs an anchor and at least one more layer of each modality, not {len(layers)}",
                hint="select more layers, such as layers=stages or layers=all",
            )
        self.layers = tuple(layers)
        self._grid, last = common_grid(self.layers), self.layers[-1]
        width, self.output_dim = options.width(last), options.dim
        self.downs = nn.ModuleList(nn.Linear(layer.width, width) for layer in self.layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self._guided = guide_names(self.layers, share=options.shares_guides)
        guides = {self._guided[layer.name]: layer.width for layer in self.layers if layer.name in self._guided}
        self.guides = nn.ModuleDict({name: nn.Linear(last.width, guided) for name, guided in guides.items()})
        self.confidence = nn.Linear(width, 1)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.up = nn.Linear(width, options.dim)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``; layers that are not read are ignored."""
        last = tokens[self.layers[-1].name]
        guides = {name: project_tokens(last, cast(nn.Linear, guide)).relu() for name, guide in self.guides.items()}
        *states, anchor = (self._read(number, tokens, guides) for number in range(len(self.layers)))
        mixed = self._interact(anchor, torch.stack(states, dim=-3))
        means: Tensor = self.up((anchor + self.mix(mixed)).relu().mean(-2))
        return means

    def _read(self, number: int, tokens: Mapping[str, LayerTokens], guides: Mapping[str, Tensor]) -> Tensor:
        """``Down(X)`` of a layer on the anchor's grid: ``[B, T, n, m]``."""
        layer, down = self.layers[number], cast(nn.Linear, self.downs[number])
        if layer.name in self._guided:
            guide, cells = guides[self._guided[layer.name]], Cells(layer.grid, self._grid)
            projected = down(guided_pooling(tokens[layer.name], guide, cells))
        else:
            projected = project_tokens(tokens[layer.name], down)
        state: Tensor = self.norms[number](projected)
        return state

    def _interact(self, anchor: Tensor, states: Tensor) -> Tensor:
        """M ``[B, T, n, m]`` of the anchor A and the other layers' T, ``[B, T, L - 1, n, m]``."""
        asked = anchor.mean(-2, keepdim=True) * states.mean(-2)
        gamma = self.confidence(asked).softmax(-2)
        scores = (anchor.unsqueeze(-3) @ states.mT).relu()
        weights = gamma.unsqueeze(-1) * scores / (scores.sum(-1, keepdim=True) + EPS)
        # over all layers at once, so that no layer's own mixture is kept; then the identity's share
        attended = weights.transpose(-3, -2).flatten(-2) @ states.flatten(-3, -2)
        mixed: Tensor = attended + (gamma.mT @ states.flatten(-2)).view_as(anchor)
        return mixed


def guide_names(layers: Sequence[LayerSpec], *, share: bool) -> dict[str, str]:
    """The guide of each layer that has one, ``s3`` for its stage or ``s3b07`` for itself; none in a flat backbone."""
    finer = [layer for layer in layers if layer.grid != layers[-1].grid]
    if share:
        return {layer.name: layer.array.split("/")[1] for layer in finer}
    return {layer.name: layer.name.split("/")[1] for layer in (layers[:-1] if finer else ())}


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: UniPT(chosen, options))


KIND = MethodKind(UniPTOptions, _build)
