"""A backbone without weights: a token is the mean and the spread of one patch, of a picture or of a second of sound."""

from dataclasses import dataclass

import numpy as np

from mettle_cache.backbones.protocol import BackboneInfo, BackboneRequest
from mettle_cache.layers import LayerSpec

GRID = 4
WIDTH = 8
RATE = 16000


def layer_table(modality):
    """Two blocks: the patches as they are, and with their neighbours' differences."""
    return tuple(
        LayerSpec(modality=modality, stage=1, block=block, grid=(GRID, GRID), tokens=GRID * GRID, width=WIDTH)
        for block in (1, 2)
    )


@dataclass
class Patches:
    """See :class:`mettle_cache.backbones.protocol.Backbone`."""

    modality: str
    name: str = "patches"
    frozen_parameters: int = 0
    weights_source: str = "none: nothing to learn"

    @property
    def layers(self):
        return layer_table(self.modality)

    @property
    def sample_rate(self):
        return RATE if self.modality == "audio" else None

    @property
    def segment_shape(self):
        return (GRID * GRID, 1000) if self.modality == "audio" else (GRID * GRID, 3 * 16 * 16)

    def preprocess(self, media, segments):
        """T seconds of sound in 16 pieces each, or T pictures in 16 patches of 16 x 16 pixels each."""
        import torch

        if self.modality == "audio":
            sound = np.zeros(segments * RATE, np.float32)
            sound[: min(len(media), len(sound))] = media[: len(sound)]
            return torch.from_numpy(sound).view(segments, GRID * GRID, 1000)
        side = 16 * GRID
        pictures = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in media]).float() / 255
        small = torch.nn.functional.interpolate(pictures, (side, side), mode="area")
        patches = small.unfold(2, 16, 16).unfold(3, 16, 16)
        return patches.permute(0, 2, 3, 1, 4, 5).reshape(segments, GRID * GRID, -1).contiguous()

    def forward_tokens(self, x):
        """``[B, N, samples or pixels]`` to both layers' ``[B, N, D]``."""
        import torch

        parts = x.float().unflatten(-1, (4, -1))
        tokens = torch.cat([parts.mean(-1), parts.std(-1)], dim=-1)
        first, second = (layer.name for layer in self.layers)
        return {first: tokens, second: tokens - tokens.roll(1, dims=1)}

    def to(self, device):
        return self

    def fingerprint(self):
        return {"architecture": "patches", "version": 1, "modality": self.modality}


class PatchesFamily:
    """See :class:`mettle_cache.backbones.protocol.Family`."""

    def create(self, request: BackboneRequest):
        return Patches(request.modality or "visual")

    def layers(self, request: BackboneRequest):
        return layer_table(request.modality or "visual")

    def frozen_parameters(self):
        return 0

    def info(self):
        return BackboneInfo(
            name="patches",
            modalities=("visual", "audio"),
            summary="means and spreads of patches, without weights",
            layers=layer_table("visual"),
            frozen_parameters=0,
            weights="none",
            weights_found="nothing to find",
        )


PATCHES = PatchesFamily()
