"""What a backbone is, and what a family of backbones offers the registry.

Shapes: B segments, T segments of one clip, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mettle_cache.layers import LayerSpec
from mettle_cache.preprocessing import DEFAULT_PREPROCESSING, Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from mettle_cache.late_bundle import LateBundle

PRECISIONS = ("float32", "bfloat16", "float16")
EXACT = PRECISIONS[0]


@runtime_checkable
class Backbone(Protocol):
    """A frozen extractor: media of one clip in, the tokens of every block out.

    Attributes
    ----------
    name
        The registered or timm name, with its size if one was asked for: ``swinv2_l``, ``vit_tiny_patch16_224@96``.
    modality
        ``visual`` or ``audio``; the first part of every layer's name.
    segment_shape
        One preprocessed segment: ``(3, H, W)``, or ``(samples,)``.
    sample_rate
        Hz of the waveforms that :meth:`preprocess` wants; None for pictures.
    frozen_parameters
        The parameters of the published model, counted as the papers do (docs/protocols/avel.md, "Parameter
        accounting").
    weights_source
        Where the weights came from, for people; only their digest is part of :meth:`fingerprint`.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def layers(self) -> tuple[LayerSpec, ...]: ...

    @property
    def segment_shape(self) -> tuple[int, ...]: ...

    @property
    def sample_rate(self) -> int | None: ...

    @property
    def frozen_parameters(self) -> int: ...

    @property
    def weights_source(self) -> str: ...

    def preprocess(self, media: Sequence[np.ndarray] | np.ndarray, segments: int) -> Tensor:
        """One clip to ``[T, *segment_shape]`` float32 on the CPU; deterministic, and safe to call from threads.

        ``media`` is T RGB uint8 pictures ``[H, W, 3]``, or one float32 mono waveform ``[samples]`` of any length.
        """
        ...

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, *segment_shape]`` to ``{layer name: [B, N, D] float32}``, on the backbone's device, without a graph."""
        ...

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights; returns the backbone itself."""
        ...

    def fingerprint(self) -> dict[str, object]:
        """JSON that names everything about this backbone that changes its tokens."""
        ...


@runtime_checkable
class SharesAudio(Protocol):
    """A visual backbone that can read a log-mel as a picture (the modality-shared mode)."""

    def shared_audio(self) -> Backbone: ...


@runtime_checkable
class HearsFiles(Protocol):
    """A backbone whose ``preprocess`` takes a :class:`~mettle_cache.preprocessing.Recording`, too.

    ``hears_files``: it wants one where the clip's sound is a sound file.
    """

    @property
    def hears_files(self) -> bool: ...


@runtime_checkable
class HasLateBlock(Protocol):
    """A backbone whose last block may be replayed by itself, from the tokens of the block before."""

    def late_bundle(self) -> LateBundle:
        """The block and the final norm; raises UsageError, which says why, where there is nothing to replay."""
        ...


@runtime_checkable
class HasPrecisions(Protocol):
    """A backbone whose weights may also be run in another precision, to be compared."""

    def at_precision(self, precision: str) -> Backbone: ...


@dataclass(frozen=True, kw_only=True)
class BackboneRequest:
    """One backbone as asked for: the name without its ``@SIZE``, and everything that changes what it computes.

    ``weights`` is ``pretrained``, ``random`` or a file. ``modality`` None means the family's own. ``embedding`` asks
    for the patch embedding as the first layer, block 0 of stage 1, where there is one.
    """

    name: str
    size: int | None = None
    weights: str = "pretrained"
    seed: int = 0
    modality: str | None = None
    precision: str = "float32"
    antialias: bool = False
    exact_dft: bool = False
    embedding: bool = False
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING

    @property
    def label(self) -> str:
        return self.name if self.size is None else f"{self.name}@{self.size}"


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """One line of ``mettle backbones``. ``weights_found`` is None where the weights must still be fetched or given."""

    name: str
    modalities: tuple[str, ...]
    summary: str
    layers: tuple[LayerSpec, ...]
    frozen_parameters: int
    weights: str
    weights_found: str | None

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "modalities": list(self.modalities),
            "summary": self.summary,
            "layers": [layer.to_json() for layer in self.layers],
            "frozen_parameters": self.frozen_parameters,
            "weights": self.weights,
            "weights_found": self.weights_found,
        }


class Builder(Protocol):
    """What makes a backbone as asked for. Everything but :meth:`create` works without weights, in about a second."""

    def create(self, request: BackboneRequest) -> Backbone: ...

    def layers(self, request: BackboneRequest) -> tuple[LayerSpec, ...]: ...

    def frozen_parameters(self) -> int: ...


class Family(Builder, Protocol):
    """What registers under a name. Its module and :meth:`info` are light: they load no PyTorch."""

    def info(self) -> BackboneInfo: ...
