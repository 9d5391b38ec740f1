"""AVSBench's temporal pixel-wise audio-visual interaction, for the baseline's sake (spec-avs.md 4.5).

Every position of every frame attends to the sound of all frames. The published module does so over all T H W positions,
but its keys come from the sound, which is the same at every position of a frame: so do the sums over positions, and T
keys with the mean value of their frame give the same. A table of (T H W)² scores is never made.

Shapes: B videos, T frames, C channels, (H, W) a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
