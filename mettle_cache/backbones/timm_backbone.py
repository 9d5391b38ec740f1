"""A timm network behind one modality's front end.

Notation for shapes: B segments, T segments of a clip, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import timm
import torch
import torchaudio
from torch import Tensor

from mettle_cache.backbones.fbank import SAMPLE_RATE, FbankImage
from mettle_cache.backbones.images import ImageTransform
from mettle_cache.backbones.inputs import check_batch, release
from mettle_cache.backbones.trunk import FrozenTrunk
from mettle_cache.layers import LayerSpec


@dataclass(eq=False, kw_only=True)
class TimmBackbone:
    """Implements :class:`~mettle_cache.backbones.protocol.Backbone`; make one with ``create_backbone``.

    Attributes
    ----------
    front
        Media to pictures: of frames for the visual modality, of a waveform in the shared mode.
    run
        The trunk's forward where it is not ``forward_features``.
    seed
        Of random weights; None for weights that were loaded.
    final_norm
        Whether the last block's tokens are taken after the network's final norm.
    audio_view
        Makes the shared mode's backbone from this visual one, around the same trunk.
    """

    name: str
    timm_name: str
    modality: str
    layers: tuple[LayerSpec, ...]
    trunk: FrozenTrunk
    front: ImageTransform | FbankImage
    run: Callable[[Tensor], object] | None
    frozen_parameters: int
    weights_source: str
    seed: int | None
    final_norm: bool
    audio_view: Callable[[TimmBackbone], TimmBackbone]

    @property
    def segment_shape(self) -> tuple[int, ...]:
        return self.front.shape

    @property
    def sample_rate(self) -> int | None:
        return SAMPLE_RATE if isinstance(self.front, FbankImage) else None

    def preprocess(self, media: Sequence[np.ndarray] | np.ndarray, segments: int) -> Tensor:
        """T pictures [H, W, 3] uint8, or a 16 kHz waveform [samples], to [T, 3, H, W] float32.

        Raises
        ------
        MediaError
            Media that are not what is said above.
        """
        front: Callable[..., Tensor] = self.front
        return front(media, segments)

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the [B, N, D] tokens of every block, by layer name.

        Raises
        ------
        UsageError
            Another shape or dtype than :meth:`preprocess` gives.
        """
        check_batch(self.name, x, [self.segment_shape])
        tokens = self.trunk(x.to(self.trunk.device, non_blocking=True), self.run)
        return {layer.name: token for layer, token in zip(self.layers, tokens, strict=True)}

    def to(self, device: torch.device | str) -> TimmBackbone:
        """Move the weights (of both modalities in the shared mode: they are the same); returns the backbone itself."""
        self.trunk.to(device)
        return self

    def shared_audio(self) -> TimmBackbone:
        """The same trunk behind the audio front end."""
        return self.audio_view(self)

    def fingerprint(self) -> dict[str, object]:
        kind: dict[str, object] = {"kind": "pretrained"} if self.seed is None else {"kind": "random", "seed": self.seed}
        versions = {"timm": timm.__version__, "torch": release(torch.__version__)}
        if isinstance(self.front, FbankImage):
            versions["torchaudio"] = release(torchaudio.__version__)
        return {
            "architecture": self.timm_name,
            "modality": self.modality,
            "layers": [layer.to_json() for layer in self.layers],
            "weights": {**kind, "digest": self.trunk.digest},
            "preprocessing": self.front.to_json(),
            "final_norm": self.final_norm,
            "positions": "trained grid" if self.run is None else "linear along the token axis",
            "precision": self.trunk.precision,
            "versions": versions,
        }
