"""Guided pooling (UniPT): the tokens of each cell of a grid become one, by weights that the cell's guide decides.

For the P tokens ``x_p`` of a cell and its guide vector g,

    s_p = g·x_p     w_p = relu(s_p) / (sum of relu(s) + 1e-6) + 1 / P     y = sum of w_p x_p.

Only y is kept. Tokens become floats a few frames at a time, for y and again for the guide's gradient. A cell counts as
a frame of P tokens, so that scale and zero of affine codes fold into vectors as reference.py says.

Shapes: F frames, f those of a piece, N tokens, n cells, P tokens of the largest cell, D channels, V vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mettle_cache.methods.kernels.reference import FramePiece, frame_pieces
from mettle_cache.methods.kernels.saved_tokens import save_tokens, saved_tokens
from mettle_cache.tokens import LayerTokens

# what keeps a sum of positive parts from being zero, UniPT's own
EPS = 1e-6


@dataclass(frozen=True)
class Cells:
    """The tokens that meet in each cell of a ``coarse`` grid: those that nearest-neighbour enlargement would cover.

    ``grid`` is the tokens', rows and columns, and nowhere coarser than ``coarse``. Class tokens, which stand before
    those of the grid, are in no cell. Where ``coarse`` does not divide ``grid``, some cells have fewer tokens.
    """

    grid: tuple[int, int]
    coarse: tuple[int, int]

    @property
    def count(self) -> int:
        """n."""
        return self.coarse[0] * self.coarse[1]

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The cells' places in the grid, row by row, and whether each is one of the cell's own: ``[n, P]`` both."""
        (rows, own_rows), (columns, own_columns) = (
            _side(fine, cells, device) for fine, cells in zip(self.grid, self.coarse, strict=True)
        )
        places = rows[:, None, :, None] * self.grid[1] + columns[None, :, None, :]
        own = own_rows[:, None, :, None] & own_columns[None, :, None, :]
        return places.flatten(2).flatten(0, 1), own.flatten(2).flatten(0, 1)


def _side(fine: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The places on one side of the grid in each cell of that side, and whether they are its own."""
    # cell i covers the places p with floor(p * cells / fine) = i
    starts = -(torch.arange(cells + 1, device=device) * -fine // cells)
    places = starts[:-1, None] + torch.arange(-(-fine // cells), device=device)
    return places.clamp(max=fine - 1), places < starts[1:, None]


def guided_pooling(tokens: LayerTokens, guide: Tensor, cells: Cells) -> Tensor:
    """``[..., n, D]`` of ``tokens [..., N, D]`` and ``guide [..., n, D]``, in the guide's precision.

    Tokens get no gradient.
    """
    with torch.autocast(guide.device.type, enabled=False):
        pooled: Tensor = _GuidedPooling.apply(tokens.flatten_frames(), guide.flatten(0, -3), cells)
    return pooled.view_as(guide)


class _GuidedPooling(torch.autograd.Function):
    """See :func:`guided_pooling`."""

    @staticmethod
    def forward(ctx: Any, tokens: LayerTokens, guide: Tensor, cells: Cells) -> Tensor:
        ctx.form, tensors = save_tokens(tokens)
        ctx.save_for_backward(guide, *tensors)
        ctx.cells = cells
        pooled = torch.empty_like(guide)
        for window, piece, own in _cell_pieces(tokens, guide.dtype, cells):
            scores = _inner(piece, guide[window].unsqueeze(2)).squeeze(2)
            positive = scores.relu() * own
            weights = positive / (positive.sum(-1, keepdim=True) + EPS) + own / own.sum(-1, keepdim=True)
            pooled[window] = _pool(piece, weights)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_pooled: Tensor) -> tuple[None, Tensor, None]:
        guide, *saved = ctx.saved_tensors
        tokens = saved_tokens(ctx.form, saved)
        d_guide = torch.empty_like(guide)
        for window, piece, own in _cell_pieces(tokens, guide.dtype, ctx.cells):
            # one product serves the scores again and the gradient of the weights
            scores, d_weights = _inner(piece, torch.stack([guide[window], d_pooled[window]], 2)).unbind(2)
            positive = scores.relu() * own
            total = positive.sum(-1, keepdim=True) + EPS
            level = (positive * d_weights).sum(-1, keepdim=True) / total
            d_guide[window] = _pool(piece, (d_weights - level) / total * (positive > 0))
        return None, d_guide, None


def _cell_pieces(tokens: LayerTokens, dtype: torch.dtype, cells: Cells) -> Iterator[tuple[slice, FramePiece, Tensor]]:
    """Pieces of the frames with their cells as frames of P tokens, and which places are a cell's own, ``[n, P]``."""
    places, own = cells.places(tokens.codes.device)
    order = places.flatten() + (tokens.count - cells.grid[0] * cells.grid[1])
    for window, piece in frame_pieces(tokens, dtype):
        codes = piece.codes.index_select(1, order).view(-1, places.shape[1], tokens.width)
        scale, offset = (_for_each_cell(part, len(places)) for part in (piece.scale, piece.offset))
        yield window, FramePiece(codes, scale, offset), own.to(dtype)


def _for_each_cell(part: Tensor | None, count: int) -> Tensor | None:
    """``[f, 1, D]`` of frames as ``[f n, 1, D]`` of their cells."""
    return None if part is None else part.expand(-1, count, -1).reshape(-1, 1, part.shape[-1])


def _inner(piece: FramePiece, vectors: Tensor) -> Tensor:
    """Inner products of each cell's tokens with its own ``vectors [f, n, V, D]``: ``[f, n, V, P]``."""
    products: Tensor = piece.inner(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
    return products


def _pool(piece: FramePiece, weights: Tensor) -> Tensor:
    """Sums of each cell's tokens under ``weights [f, n, P]``: ``[f, n, D]``."""
    pooled: Tensor = piece.pool(weights.flatten(0, 1).unsqueeze(1)).squeeze(1).unflatten(0, weights.shape[:2])
    return pooled
