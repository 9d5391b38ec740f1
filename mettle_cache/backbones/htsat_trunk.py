"""HTS-AT's trunk on timm's Swin parts (docs/protocols/htsat.md, "Architecture").

Shapes: B waveforms, T frames, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.backbones.htsat_frontend import LogMel, MelSettings
from mettle_cache.errors import UsageError
from mettle_cache.meta_device import on_meta


@dataclass(frozen=True, kw_only=True)
class HtsatSizes:
    """What a checkpoint's shapes tell; the defaults are the AudioSet model's. ``image`` is the folded side."""

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 8
    patch: int = 4
    image: int = 256
    classes: int = 527
    mel: MelSettings = field(default_factory=MelSettings)

    @property
    def frames(self) -> int:
        """Frames that fill the image: a quarter of its height a mel strip, so 4 strips of 256."""
        return self.image * (self.image // self.mel.mels)

    @property
    def longest(self) -> int:
        """Samples beyond which the reference would crop at a random place."""
        return self.frames * self.mel.hop - 1


class Htsat(nn.Module):
    """Log-mel, BatchNorm over the bands, stretch, fold, and the Swin stages; no head.

    ``dft`` is as in :class:`LogMel`.
    """

    def __init__(
        self, sizes: HtsatSizes, filters: Tensor | None = None, dft: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.logmel = LogMel(sizes.mel, sizes.mel.filters() if filters is None else filters, dft)
        self.bn0 = nn.BatchNorm2d(sizes.mel.mels)
        self.swin = SwinTransformer(
            img_size=sizes.image,
            patch_size=sizes.patch,
            in_chans=1,
            num_classes=0,
            embed_dim=sizes.width,
            depths=sizes.depths,
            num_heads=sizes.heads,
            window_size=sizes.window,
        )

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.swin.layers for block in stage.blocks]

    def forward_features(self, waveforms: Tensor) -> Tensor:
        """[B, samples] to the last block's output, [B, rows, columns, D]."""
        x = self.bn0(self.logmel(waveforms).transpose(1, 3)).transpose(1, 3)
        x = self.swin.patch_embed(self._fold(x))
        features: Tensor = self.swin.layers(x)
        return features

    def _fold(self, x: Tensor) -> Tensor:
        """[B, 1, T, M] to the image [B, 1, side, side]: T stretched to 1024, row ``64 (t // 256) + mel``."""
        frames, side = self.sizes.frames, self.sizes.image
        if x.shape[2] > frames:
            raise UsageError(f"HTS-AT takes at most {frames} frames ({self.sizes.longest} samples), not {x.shape[2]}")
        if x.shape[2] < frames:
            x = functional.interpolate(x, (frames, x.shape[3]), mode="bicubic", align_corners=True)
        strips: Tensor = x.transpose(2, 3).unflatten(3, (frames // side, side))
        return strips.transpose(2, 3).flatten(2, 3)


def original_parameters(sizes: HtsatSizes) -> int:
    """Named parameters of the original module, as the papers count them: 31,325,143 for the AudioSet model.

    Beside the trunk they are both heads, the fixed STFT kernels and the mel filters (docs/protocols/htsat.md,
    "Parameters").
    """
    with on_meta():
        trunk = sum(parameter.numel() for parameter in Htsat(sizes, filters=torch.empty(0)).parameters())
    bins, last = sizes.mel.n_fft // 2 + 1, sizes.width * 2 ** (len(sizes.depths) - 1)
    semantic: int = last * sizes.classes * (sizes.image // (sizes.patch * 2 ** (len(sizes.depths) - 1) * 4)) * 3
    classifier = sizes.classes * sizes.classes + sizes.classes
    fixed = 2 * bins * sizes.mel.n_fft + bins * sizes.mel.mels
    return trunk + semantic + sizes.classes + classifier + fixed
