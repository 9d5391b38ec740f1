"""What training needs of a method, which turns the stored tokens of both modalities into meta-tokens.

A method is a module with a :class:`MethodKind`, and a row of the registry that names it
(:mod:`mettle_cache.methods.registry`). Shapes: B clips, T segments, N tokens, D channels, d output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES, LayerSpec
from mettle_cache.methods.pooled import PooledLayer
from mettle_cache.options import Options
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True)
class MetaTokens:
    """``visual`` and ``audio``, ``[B, T, d]`` each, or ``[B, T, K, d]`` one by one.

    ``losses`` are scalars by name, which training adds to its loss.
    """

    visual: Tensor
    audio: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Both modalities' tokens to :class:`MetaTokens`.

    Attributes
    ----------
    layers
        The layers that are read, of those offered: the others need not leave the disk.
    pooled
        Those of them that are read on a coarser grid alone: a loader may bring that instead of the layer
        (:func:`mettle_cache.methods.pooled.pooled_tokens` takes what there is).
    visual_dim, audio_dim
        d of each modality.
    companions
        Names of the companions of a store that are needed, such as the weights of a backbone's last block.
    native_width
        Whether d is what the backbones happen to give and nothing here could change it: a decoder then brings an input
        layer for each modality.
    """

    layers: tuple[LayerSpec, ...]
    pooled: tuple[PooledLayer, ...] = ()
    visual_dim: int
    audio_dim: int
    companions: tuple[str, ...] = ()
    native_width: bool = False

    def forward(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        """From tokens ``[B, T, N, D]`` by layer name; layers that are not read are ignored."""
        raise NotImplementedError

    def separate(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        """The meta-tokens one by one, ``[B, T, K, d]``, for heads that inject each by itself.

        A method that has but one vector a segment gives that: K = 1.
        """
        meta_tokens: MetaTokens = self(tokens)
        return MetaTokens(meta_tokens.visual.unsqueeze(-2), meta_tokens.audio.unsqueeze(-2), meta_tokens.losses)


@dataclass(frozen=True)
class MethodKind:
    """What stands behind a method's name.

    ``options_type`` is what a recipe's table of that name holds; ``build`` makes a method with the options, new
    parameters included, on the layers that are offered: ``build(layers, options)``. It raises UsageError where the two
    do not fit. One that ``reads_companions`` is given those that there are by name as well, and raises where it lacks
    one: ``build(layers, options, companions)``. From just the layers that a method reads, ``build`` has to make the
    same method again: that is how tasks and exported heads build it. ``names_layers`` is the option that names single
    layers, if there is one; a recipe that names one that it does not select is refused.
    """

    options_type: type[Options]
    build: Callable[..., Method]
    reads_companions: bool = False
    names_layers: str | None = None


class PerModality(Method):
    """A method that treats the modalities apart, with a module for each: tokens by name to ``[B, T, d]``.

    Parameters
    ----------
    layers
        Those offered, of both modalities.
    build
        Makes one modality's module of its layers; it has ``layers`` and ``output_dim``, and may have ``pooled``,
        ``companions`` and ``native_width``.

    Raises
    ------
    UsageError
        There are no layers of one modality.
    """

    def __init__(self, layers: Sequence[LayerSpec], build: Callable[[Sequence[LayerSpec]], Any]) -> None:
        super().__init__()
        visual, audio = (build(layers_of(layers, modality)) for modality in MODALITIES)
        self.visual, self.audio = visual, audio
        self.layers = (*visual.layers, *audio.layers)
        self.pooled = (*getattr(visual, "pooled", ()), *getattr(audio, "pooled", ()))
        self.companions = (*getattr(visual, "companions", ()), *getattr(audio, "companions", ()))
        self.visual_dim, self.audio_dim = visual.output_dim, audio.output_dim
        self.native_width = any(getattr(module, "native_width", False) for module in (visual, audio))

    def forward(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        return MetaTokens(self.visual(tokens), self.audio(tokens))


def layers_of(layers: Sequence[LayerSpec], modality: str) -> tuple[LayerSpec, ...]:
    """The layers of one modality; raises UsageError where there is none."""
    chosen = tuple(layer for layer in layers if layer.modality == modality)
    if not chosen:
        raise UsageError(
            f"none of the {len(layers)} layers is {modality}, and the task needs both modalities",
            hint="select layers of both modalities, or extract the store again with both",
        )
    return chosen
