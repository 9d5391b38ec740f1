"""What AVSBench's own baseline does with the sound: TPAVI and the matching term.

TPAVI is its temporal pixel-wise audio-visual interaction (docs/protocols/avs.md, "TPAVI"). Every position of every
frame attends to the sound of all frames. The published module does so over all T H W positions, but its keys come from
the sound, which is the same at every position of a frame: so do the sums over positions, and T keys with the mean value
of their frame give the same. A table of (T H W)² scores is never made.

Shapes: B videos, T frames, F = B T, C channels, (H, W) a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

AUDIO_WIDTH = 128


class TPAVI(nn.Module):
    """One scale. Parameters at C = 256: 165,760."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.align = nn.Linear(AUDIO_WIDTH, width)
        self.query, self.key, self.value = (nn.Conv3d(width, width // 2, 1) for _ in range(3))
        self.output = nn.Conv3d(width // 2, width, 1)
        self.batch_norm = nn.BatchNorm3d(width)
        nn.init.zeros_(self.batch_norm.weight)
        nn.init.zeros_(self.batch_norm.bias)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``[B, T, C, H, W]`` and audio ``[B, T, 128]`` to maps and audio ``[B, T, C]``."""
        heard: Tensor = self.align(audio)
        seen = maps.transpose(1, 2)
        keys = self.key(heard.mT[..., None, None]).flatten(2)
        values = self.value(seen).mean((-2, -1))
        # "dot" mode: scores are divided by the number of positions, which the mean over a frame has done but for T
        scores = torch.einsum("bcthw,bcs->bthws", self.query(seen), keys) / maps.shape[1]
        attended = torch.einsum("bthws,bcs->bcthw", scores, values)
        mixed = self.batch_norm(self.output(attended)) + seen
        return self.norm(mixed.movedim(1, -1)).movedim(-1, 2), heard


def matching_divergence(logits: Tensor, maps: Sequence[Tensor], heard: Sequence[Tensor]) -> Tensor:
    """AVSBench's matching term in its KL form: how far the masked pictures are from the sound, ``[F]``.

    Source: docs/protocols/avs.md, "Matching term".
    It is the mean over the scales.

    At each scale the visual map, rectified and weighted with the mask at its size, is averaged over its positions; the
    term is KL(sound || picture) of the two vectors' softmaxes. The published loss is its sum over the frames.

    Parameters
    ----------
    logits
        ``[F, H, W]`` of the masks.
    maps
        ``[F, C, h, w]`` of each scale, before the decoder's first ReLU.
    heard
        ``[F, C]`` for each scale.
    """
    terms = []
    for picture, sound in zip(maps, heard, strict=True):
        size = (picture.shape[-2], picture.shape[-1])
        weights = functional.adaptive_avg_pool2d(logits.unsqueeze(1), size).sigmoid()
        seen = (functional.relu(picture) * weights).mean((-2, -1))
        terms.append(
            functional.kl_div(seen.log_softmax(-1), sound.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        )
    return torch.stack(terms).mean(0)
