"""The audio-visual matching term of AVSBench's multi-source training, in its KL form (spec-avs.md 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def matching_divergence(logits: Tensor, maps: Sequence[Tensor], heard: Sequence[Tensor]) -> Tensor:
    """How far the masked pictures are from the sound: ``[F]``, the mean over the scales.

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
