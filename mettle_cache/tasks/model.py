"""What tasks build alike: a method for each modality and a head on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCD
from mettle_cache.methods.linear import LinearProbe
from mettle_cache.tasks.options import MethodOptions
from mettle_cache.tokens import LayerTokens


class AudioVisualModel(nn.Module):
    """Meta-tokens of each modality, then the decoder, which stays in full precision under autocast."""

    def __init__(self, visual: nn.Module, audio: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.visual, self.audio, self.decoder = visual, audio, decoder

    def forward(self, tokens: Mapping[str, LayerTokens], **given: Tensor) -> dict[str, Tensor]:
        """Tokens ``[B, T, N, D]`` by layer name to the decoder's outputs; ``given`` are its further arguments."""
        visual, audio = self.visual(tokens), self.audio(tokens)
        precision = next(self.decoder.parameters()).dtype
        # thresholds such as PSP's 0.099 against 0.1 have no room for half precision
        with torch.autocast(visual.device.type, enabled=False):
            outputs: dict[str, Tensor] = self.decoder(visual.to(precision), audio.to(precision), **given)
        return outputs


def build_method(layers: Sequence[LayerSpec], modality: str, options: MethodOptions) -> LCD | LinearProbe:
    """The method of one modality, on its layers among ``layers``.

    Raises
    ------
    UsageError
        None of the layers is of that modality, or the method refuses its options.
    """
    own = [layer for layer in layers if layer.modality == modality]
    if not own:
        raise UsageError(
            f"none of the {len(layers)} layers is {modality}, and the task needs both modalities",
            hint="select layers of both modalities, or extract the store again with both",
        )
    if options.name == "linear":
        return LinearProbe(own, dim=_width(options.linear.dim))
    lcd = options.lcd
    return LCD(
        own,
        dim=_width(lcd.dim),
        meta_tokens=lcd.k_visual if modality == "visual" else lcd.k_audio,
        steps=lcd.steps_visual if modality == "visual" else lcd.steps_audio,
        heads=lcd.heads,
        task_specific=lcd.task_specific,
        pretrained_branch=lcd.pretrained_branch,
        norm=lcd.norm,
        residual=lcd.residual,
        attention=lcd.attention,
    )


def common_width(visual: LCD | LinearProbe, audio: LCD | LinearProbe) -> int:
    """d, which heads that add the modalities want to be one.

    Raises
    ------
    UsageError
        The widths differ.
    """
    if visual.output_dim != audio.output_dim:
        raise UsageError(
            f"visual features are {visual.output_dim} wide and audio features {audio.output_dim}",
            hint="set lcd.dim (or linear.dim) to a number, which projects both to one width",
        )
    return visual.output_dim


def _width(dim: int | str) -> int | None:
    return None if isinstance(dim, str) else dim
