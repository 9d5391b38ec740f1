"""What tasks build alike: a method for both modalities and a decoder on their meta-tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mettle_cache.decoders.registry import DECODERS, create_decoder
from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.methods.protocol import MetaTokens, Method, PerModality
from mettle_cache.methods.registry import METHODS, MethodChoice
from mettle_cache.tasks.input_layers import InputLayerOptions, InputLayers, input_layers
from mettle_cache.tasks.protocol import auxiliary_outputs
from mettle_cache.tokens import LayerTokens


class AudioVisualModel(nn.Module):
    """Meta-tokens of each modality, then the decoder, which stays in full precision under autocast.

    ``inputs`` are the decoder's input layers, if it has any.
    """

    def __init__(self, method: Method, decoder: nn.Module, inputs: InputLayers | None = None) -> None:
        super().__init__()
        self.method: Method | None = None
        if isinstance(method, PerModality):
            # under the names that checkpoints had before there were methods of both modalities
            self.visual, self.audio = method.visual, method.audio
        else:
            self.method = method
        self.inputs = inputs
        self.decoder = decoder

    def forward(self, tokens: Mapping[str, LayerTokens], **inputs: Tensor) -> dict[str, Tensor]:
        """Tokens ``[B, T, N, D]`` by layer name to the decoder's outputs; ``inputs`` are its further arguments."""
        meta_tokens = self.distil(tokens)
        precision = next(self.decoder.parameters()).dtype
        visual, audio = meta_tokens.visual.to(precision), meta_tokens.audio.to(precision)
        # thresholds such as PSP's 0.099 against 0.1 have no room for half precision
        with torch.autocast(visual.device.type, enabled=False):
            if self.inputs is not None:
                visual, audio = self.inputs(visual, audio)
            outputs: dict[str, Tensor] = self.decoder(visual, audio, **inputs)
        return {**outputs, **auxiliary_outputs(meta_tokens.losses)}

    def distil(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        """The meta-tokens that the decoder gets, ``[B, T, d]`` of each modality."""
        if self.method is None:
            return MetaTokens(self.visual(tokens), self.audio(tokens))
        meta_tokens: MetaTokens = self.method(tokens)
        return meta_tokens


def build_audio_visual_model(
    method: Method, decoder: str, categories: int, offered: Mapping[str, object], options: InputLayerOptions
) -> AudioVisualModel:
    """The method with the ``decoder`` called so, which is given what it takes of ``offered``, and ``audio_dim``.

    A decoder that takes ``audio_dim`` is called with the width of the visual meta-tokens and takes theirs from it.

    Raises
    ------
    UsageError
        The widths of the modalities differ where the decoder wants one and ``options`` forbid input layers; or the
        decoder refuses its arguments.
    """
    takes_two_widths = "audio_dim" in DECODERS.row(decoder).takes
    inputs = input_layers(method, options, takes_two_widths=takes_two_widths)
    if inputs is not None:
        visual_dim = audio_dim = inputs.width
    elif takes_two_widths:
        visual_dim, audio_dim = method.visual_dim, method.audio_dim
    else:
        visual_dim = audio_dim = common_width(method)
    module = create_decoder(decoder, visual_dim, categories, {**offered, "audio_dim": audio_dim})
    return AudioVisualModel(method, module, inputs)


def category_names(vocabulary: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The categories that a store's vocabulary names; raises DatasetError where it names none."""
    names = tuple(vocabulary.get("categories", ()))
    if not names:
        raise DatasetError("the store's vocabulary names no categories, so there is nothing to tell apart")
    return names


def common_width(method: Method) -> int:
    """d, which decoders that add the modalities want to be one.

    Raises
    ------
    UsageError
        The widths differ.
    """
    if method.visual_dim != method.audio_dim:
        raise UsageError(
            f"visual features are {method.visual_dim} wide and audio features {method.audio_dim}",
            hint="set head.input_width to auto or a number, or lcd.dim (or linear.dim) to a number",
        )
    return method.visual_dim


def require_method(choice: MethodChoice, accepted: Sequence[str], *, reason: str) -> None:
    """Refuse a method that a task cannot use.

    Raises
    ------
    UsageError
        It is not one of ``accepted``; the message says the ``reason``, and what methods there are.
    """
    if choice.name not in accepted:
        raise UsageError(
            f"{reason}, so it takes {' or '.join(accepted)}, not '{choice.name}'",
            hint=f"set method to one of these (installed: {', '.join(METHODS.names())})",
        )
