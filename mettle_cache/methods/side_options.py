"""Options of methods that put a narrow network of their own beside each backbone (LST, UniPT, SHERL).

How narrow is a preset's matter, or that of the keys that override it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.options import Options, Width

Preset = Literal["official", "matched", "tiny"]
Reduction = Annotated[int, Field(ge=1, le=256)]


@dataclass(frozen=True, kw_only=True)
class SideOptions(Options):
    """The width of the vectors, and that of the side networks.

    Attributes
    ----------
    dim
        d, the width of the method's vectors, one for both modalities.
    preset
        ``official`` (the published repository's reduction), ``matched`` (about as many parameters as the paper counts)
        or ``tiny`` (a reduction of 8).
    reduction
        r: the side network is D / r wide, for the width D of the modality's last layer.
    width_visual, width_audio
        m, the width of the side network, whatever the reduction.
    """

    reductions: ClassVar[Mapping[Preset, int]]
    widths: ClassVar[Mapping[Preset, Mapping[str, int]]]
    """m by modality, of presets that have no reduction."""

    dim: Width = 256
    preset: Preset = "official"
    reduction: Reduction | Literal["preset"] = "preset"
    width_visual: Width | Literal["preset"] = "preset"
    width_audio: Width | Literal["preset"] = "preset"

    def problems(self) -> Sequence[str]:
        if "preset" in (self.reduction, self.width_visual, self.width_audio):
            return ()
        return ("reduction, width_visual and width_audio together leave the reduction without effect",)

    def width(self, last: LayerSpec) -> int:
        """m of the modality whose last layer this is. Raises UsageError where that is narrower than the reduction."""
        width = self.width_visual if last.modality == "visual" else self.width_audio
        if not isinstance(width, str):
            return width
        if isinstance(self.reduction, str) and self.preset in self.widths:
            return self.widths[self.preset][last.modality]
        reduction = self.reductions[self.preset] if isinstance(self.reduction, str) else self.reduction
        if last.width < reduction:
            raise UsageError(
                f"{last.name} is {last.width} wide, which a reduction of {reduction} leaves nothing of",
                hint=f"set width_{last.modality} to a number",
            )
        return last.width // reduction
