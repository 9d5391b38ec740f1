"""Tokens of the ``klt`` codecs: bit planes of a layer's Karhunen-Loeve components, beside norms and means.

A token is normalised over its channels, ``x = (raw - mu) / sigma``, and less its frame's rest r it is a sum of M
components. Component i has a code c of b = 8, 4, 2 or 1 bits, which stands for ``step * (c - (2^b - 1) / 2)``. With
cells the tokens of a square of the grid are one row, whose components have a vector for each of its P places. So

    x = ((c - o) step) basis_p^T + r          raw = mu + sigma x (+ shift)

Source: docs/codecs.md, "The klt family"; what is on disk is in FORMAT.md, section 5.

Shapes: T segments, N tokens, D channels, P tokens of a cell (1 without cells), R rows (N / P cells), C bytes of a row,
M components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.tokens import LayerTokens

BITS = (8, 4, 2, 1)
# planes hold components by eights, so that each of them fills whole bytes
PLANE_STEP = 8


@dataclass(frozen=True)
class KltFormat:
    """See :class:`mettle_cache.tokens.NormalisedFormat`.

    Attributes
    ----------
    width
        D.
    grid
        Rows and columns of the tokens; with class tokens, which have no place in a grid, there are no cells.
    count
        N.
    planes
        How many components have 8, 4, 2 and 1 bits, multiples of 8; M in all. They come in this order.
    cell
        The side of a cell: P is ``cell * cell``. The first cell's tokens are one row of codes, and so on, row of cells
        by row of cells; within a cell places count row by row.
    shifted
        Whether there is a part ``shift``: what makes the mean of a frame's raw tokens exact.
    """

    width: int
    grid: tuple[int, int]
    count: int
    planes: tuple[int, int, int, int]
    cell: int = 1
    shifted: bool = False
    name: str = "klt"
    code_dtype: torch.dtype = torch.uint8
    static: tuple[str, ...] = ("basis", "step", "bits")
    affine: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """``norm [..., T, N, 2]`` (mu, sigma), ``rest [..., T, D]`` and, if shifted, ``shift [..., T, D]``; float16."""
        return ("norm", "rest", "shift") if self.shifted else ("norm", "rest")

    @property
    def components(self) -> int:
        """M."""
        return sum(self.planes)

    @property
    def places(self) -> int:
        """P."""
        return self.cell * self.cell

    @property
    def plane_bytes(self) -> tuple[int, ...]:
        """Bytes of a row's planes of 8, 4, 2 and 1 bits."""
        return tuple(number * bits // 8 for number, bits in zip(self.planes, BITS, strict=True))

    @property
    def row_bytes(self) -> int:
        """C: bytes of a row."""
        return sum(self.plane_bytes)

    def shape(self, tokens: LayerTokens) -> tuple[int, int]:
        return self.count, self.width

    def offsets(self, device: torch.device | None = None) -> Tensor:
        """o ``[M]``: the code that stands for 0, which lies between two codes; made on ``device``, None for the CPU."""
        pairs = zip(self.planes, BITS, strict=True)
        return torch.cat([torch.full((number,), (2**bits - 1) / 2, device=device) for number, bits in pairs])

    def unpack(self, codes: Tensor) -> Tensor:
        """Codes ``[..., R, M]`` uint8 of bytes ``[..., R, C]``."""
        planes, start = [], 0
        for number, bits in zip(self.planes, BITS, strict=True):
            packed = codes[..., start : start + number * bits // 8]
            # a byte holds 8 / b codes, of components that are n / (8 / b) apart
            planes += [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
            start += packed.shape[-1]
        return torch.cat(planes, -1)

    def pack(self, codes: Tensor) -> Tensor:
        """The inverse of :meth:`unpack`."""
        planes = []
        for plane, bits in zip(codes.split(self.planes, -1), BITS, strict=True):
            # whole numbers up to 255 are exact in any type of the codes
            packed = torch.zeros_like(plane[..., : plane.shape[-1] * bits // 8])
            for shift, members in zip(range(0, 8, bits), plane.chunk(8 // bits, -1), strict=False):
                packed.add_(members, alpha=1 << shift)
            planes.append(packed)
        return torch.cat(planes, -1).to(torch.uint8)

    def to_cells(self, tokens: Tensor) -> Tensor:
        """Tokens ``[..., N, D]`` as rows ``[..., R, P, D]``."""
        if self.cell == 1:
            return tokens.unsqueeze(-2)
        rows, columns = (side // self.cell for side in self.grid)
        squares = tokens.unflatten(-2, (rows, self.cell, columns, self.cell)).transpose(-4, -3)
        cells: Tensor = squares.flatten(-3, -2).flatten(-4, -3)
        return cells

    def from_cells(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`to_cells`."""
        if self.cell == 1:
            return rows.squeeze(-2)
        down, across = (side // self.cell for side in self.grid)
        squares = rows.unflatten(-3, (down, across)).unflatten(-2, (self.cell, self.cell)).transpose(-4, -3)
        tokens: Tensor = squares.flatten(-5, -2)
        return tokens

    def normalised(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        basis = tokens.static["basis"][:, : self.components].to(dtype)
        step = tokens.static["step"][: self.components].to(dtype)
        offsets = self.offsets(basis.device).to(dtype)
        components = (self.unpack(tokens.codes).to(dtype) - offsets) * step
        rows = (components @ basis.mT).unflatten(-1, (self.places, self.width))
        return self.from_cells(rows) + tokens.parts["rest"].to(dtype).unsqueeze(-2)

    def floats(self, tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
        norm = tokens.parts["norm"].to(dtype)
        raw = self.normalised(tokens, dtype) * norm[..., 1:] + norm[..., :1]
        return raw + tokens.parts["shift"].to(dtype).unsqueeze(-2) if self.shifted else raw
