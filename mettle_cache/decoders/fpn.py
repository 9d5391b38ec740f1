"""The feature pyramid that turns four stages of tokens into a mask: AVSBench's decoder as DG-SCT feeds it.

Shapes: F frames, N tokens of a grid (h, w), D channels of a stage, C channels of the pyramid. Sources:
docs/protocols/avs.md, "Pyramid decoder" (laterals, fusion, output head) and "Dilated laterals".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec

LATERALS = ("linear", "dilated")
LEVELS = (56, 28, 14, 7)
"""Sides of the four maps, whatever the grids of the backbone are."""

SIDE = 224
# LAVISH's widths before the dilated convolutions, those of the PVT that AVSBench was made for
_DILATED_WIDTHS = (64, 128, 320, 512)
_DILATIONS = (3, 6, 12, 18)


class Stage(Protocol):
    """A stage's tokens, which laterals read through a linear and in no other way."""

    def project(self, linear: nn.Linear) -> Tensor:
        """``linear`` of every token: ``[F, N, C]``."""
        ...


class FPN(nn.Module):
    """Stages, fine to coarse, to the logits of a mask of 224 x 224 pixels.

    Parameters
    ----------
    stages
        Four layers; their grids may be of any size and their tokens may begin with class tokens, which are left out.
    lateral
        ``linear``: one linear a stage; ``dilated``: LAVISH's linear, then the sum of four dilated convolutions.
    width
        C.

    Raises
    ------
    UsageError
        Not four stages, an unknown lateral, or a width that is not a multiple of 8.
    """

    def __init__(self, stages: Sequence[LayerSpec], *, lateral: str = "linear", width: int = 256) -> None:
        super().__init__()
        if len(stages) != len(LEVELS):
            raise UsageError(
                f"the FPN reads {len(LEVELS)} stages of the visual backbone, not {len(stages)}",
                hint="extract the store with --layers visual/pyramid,audio/last:1",
            )
        if lateral not in LATERALS:
            raise UsageError(f"the FPN has no '{lateral}' laterals; use one of {', '.join(LATERALS)}")
        if width % 8:
            raise UsageError(f"the FPN's width {width} is not a multiple of 8")
        self.laterals = nn.ModuleList(
            LinearLateral(stage, width, side)
            if lateral == "linear"
            else DilatedLateral(stage, width, side, inner=inner)
            for stage, side, inner in zip(stages, LEVELS, _DILATED_WIDTHS, strict=True)
        )
        self.fusions = nn.ModuleList(Fusion(width, first=side == LEVELS[-1]) for side in LEVELS)
        self.output = OutputHead(width)

    def forward(self, stages: Sequence[Stage]) -> Tensor:
        """Stages of F frames to logits ``[F, 224, 224]``."""
        return self.decode(self.maps(stages))

    def maps(self, stages: Sequence[Stage]) -> list[Tensor]:
        """The laterals' maps ``[F, C, side, side]``, fine to coarse."""
        return [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of :meth:`maps` to logits ``[F, 224, 224]``."""
        path: Tensor | None = None
        for fusion, lateral in zip(reversed(self.fusions), reversed(maps), strict=True):
            path = fusion(lateral, path)
        logits: Tensor = self.output(path)
        return logits.squeeze(1)


def to_map(tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Tokens ``[F, N, D]`` of a grid to a map ``[F, D, side, side]``, resized bicubically; class tokens come first."""
    count = grid[0] * grid[1]
    picture: Tensor = tokens[:, -count:].transpose(1, 2).unflatten(2, grid)
    if grid == (side, side):
        return picture
    return functional.interpolate(picture, (side, side), mode="bicubic", align_corners=False)


class LinearLateral(nn.Module):
    """A stage of F frames to ``[F, C, side, side]``."""

    def __init__(self, stage: LayerSpec, width: int, side: int) -> None:
        super().__init__()
        self.grid, self.side = stage.grid, side
        self.linear = nn.Linear(stage.width, width)

    def forward(self, stage: Stage) -> Tensor:
        return to_map(stage.project(self.linear), self.grid, self.side)


class DilatedLateral(nn.Module):
    """A stage of F frames to ``[F, C, side, side]``: a linear, then the sum of four dilated 3 x 3 convolutions."""

    def __init__(self, stage: LayerSpec, width: int, side: int, *, inner: int) -> None:
        super().__init__()
        self.linear = LinearLateral(stage, inner, side)
        self.branches = nn.ModuleList(
            nn.Conv2d(inner, width, 3, padding=dilation, dilation=dilation) for dilation in _DILATIONS
        )
        for branch in self.branches:
            nn.init.normal_(cast(Tensor, branch.weight), std=0.01)

    def forward(self, stage: Stage) -> Tensor:
        picture = self.linear(stage)
        summed: Tensor = sum(branch(picture) for branch in self.branches)
        return summed


class ResidualUnit(nn.Module):
    """``relu(x) + conv(relu(conv(relu(x))))``.

    The published first ReLU works in place, so its skip is ``relu(x)`` and not ``x``; here that is written out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        residual: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return x + residual


class Fusion(nn.Module):
    """A lateral joins the path from the coarser maps, and the sum is enlarged twofold.

    The ``first`` one has no path to join and so no unit for its lateral; the published code builds that unit (1,180,160
    parameters), counts it and never uses it.
    """

    def __init__(self, width: int, *, first: bool) -> None:
        super().__init__()
        self.lateral_unit = None if first else ResidualUnit(width)
        self.unit = ResidualUnit(width)

    def forward(self, lateral: Tensor, path: Tensor | None) -> Tensor:
        """``lateral`` and ``path`` ``[F, C, s, s]`` to ``[F, C, 2 s, 2 s]``."""
        if path is not None and self.lateral_unit is not None:
            lateral = path + self.lateral_unit(lateral)
        return functional.interpolate(self.unit(lateral), scale_factor=2, mode="bilinear", align_corners=True)


class OutputHead(nn.Module):
    """``[F, C, 112, 112]`` to logits ``[F, 1, 224, 224]``: half the channels, twice the size, an eighth, then one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, width // 8, 3, padding=1)
        self.conv3 = nn.Conv2d(width // 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        # no ReLU before the resize: as published
        x = functional.interpolate(self.conv1(x), scale_factor=2, mode="bilinear", align_corners=False)
        logits: Tensor = self.conv3(functional.relu(self.conv2(x)))
        return logits
