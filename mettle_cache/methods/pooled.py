"""Tokens on a coarser grid, which some methods read in the place of a layer's own.

A store's companion may hold them (:attr:`PooledLayer.name` is what a loader calls them then); where it does not, they
are pooled here, a few frames at a time. Class tokens are left out.

Shapes: N tokens of a layer's grid, n those of the coarser one, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.tokens import LayerTokens

Pooling = Literal["mean", "max"]

# bounds what pooling holds as floats: a frame of the widest layers is 2 MB
_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class PooledLayer:
    """The mean or the maximum of the tokens that meet in each cell of a coarser ``grid`` (rows, columns)."""

    layer: LayerSpec
    grid: tuple[int, int]
    how: Pooling

    @property
    def name(self) -> str:
        """For example ``mean/visual/s1b01``."""
        return f"{self.how}/{self.layer.name}"

    @property
    def count(self) -> int:
        """n."""
        return self.grid[0] * self.grid[1]


def common_grid(layers: Sequence[LayerSpec]) -> tuple[int, int]:
    """The grid of the last of ``layers``, on which methods that mix layers token by token bring all of them.

    Raises
    ------
    UsageError
        A layer is coarser, or only the layers of one grid have class tokens, which pooling leaves out.
    """
    last = layers[-1]
    strangers = [layer.name for layer in layers if not _meets(layer, last)]
    if strangers:
        raise UsageError(
            f"the tokens of {', '.join(strangers)} cannot meet those of {last.name}, {last.tokens} on a grid of "
            f"{last.grid[0]} x {last.grid[1]}",
            hint="select layers of that grid, or finer ones where there are no class tokens",
        )
    return last.grid


def _meets(layer: LayerSpec, last: LayerSpec) -> bool:
    if layer.grid == last.grid:
        return layer.tokens == last.tokens
    finer = all(fine >= coarse for fine, coarse in zip(layer.grid, last.grid, strict=True))
    return finer and last.tokens == last.grid[0] * last.grid[1]


def pooled_tokens(tokens: Mapping[str, LayerTokens], pooled: PooledLayer, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[..., T, n, D]``, from the companion's tokens where ``tokens`` has them, else from the layer's own."""
    if pooled.name in tokens:
        return tokens[pooled.name].floats(dtype)
    return pool_tokens(tokens[pooled.layer.name], pooled, dtype)


def pool_tokens(tokens: LayerTokens, pooled: PooledLayer, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[..., T, n, D]`` from the layer's own tokens ``[..., T, N, D]``.

    Cells overlap where the coarser grid does not divide the layer's.
    """
    frames = tokens.flatten_frames()
    pieces = [
        _pool(frames[start : start + _FRAMES].floats(dtype), pooled) for start in range(0, len(frames.codes), _FRAMES)
    ]
    grids: Tensor = torch.cat(pieces).unflatten(0, tokens.codes.shape[:-2])
    return grids


def _pool(floats: Tensor, pooled: PooledLayer) -> Tensor:
    """``[F, N, D]`` to ``[F, n, D]``."""
    rows, columns = pooled.layer.grid
    maps = floats[:, -rows * columns :].mT.unflatten(-1, (rows, columns))
    pool = nn.functional.adaptive_avg_pool2d if pooled.how == "mean" else nn.functional.adaptive_max_pool2d
    cells: Tensor = pool(maps, pooled.grid)
    return cells.flatten(-2).mT
