"""A decoder's input layers: one a modality, where the meta-tokens of the two differ in width.

Linear, ReLU, dropout: how the published AVE head of AVMoE takes features without its temporal attention
(docs/methods.md, "Direct"). Shapes: B clips, T segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mettle_cache.methods.protocol import Method
from mettle_cache.options import Options, Share, Width

DEFAULT_WIDTH = 256


@dataclass(frozen=True, kw_only=True)
class InputLayerOptions(Options):
    """The keys of a ``[head]`` table that decide about input layers.

    Attributes
    ----------
    input_width
        What input layers give. ``auto`` adds them, of width 256, where the modalities' widths differ and for Direct,
        unless the decoder takes two widths; ``none`` leaves them out.
    input_dropout
        The dropout in them.
    """

    input_width: Width | Literal["auto", "none"] = "auto"
    input_dropout: Share = 0.1


class InputLayers(nn.Module):
    """``[B, T, d]`` of each modality, of different d, to ``[B, T, width]``."""

    def __init__(self, visual: int, audio: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.visual, self.audio = (
            nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout)) for dim in (visual, audio)
        )

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual(visual), self.audio(audio)


def input_layers(method: Method, options: InputLayerOptions, *, takes_two_widths: bool) -> InputLayers | None:
    """The input layers that a decoder needs on this method's meta-tokens, None where it needs none."""
    width = options.input_width
    if width == "auto":
        needed = method.native_width or method.visual_dim != method.audio_dim
        width = DEFAULT_WIDTH if needed and not takes_two_widths else "none"
    if width == "none":
        return None
    return InputLayers(method.visual_dim, method.audio_dim, width, options.input_dropout)
