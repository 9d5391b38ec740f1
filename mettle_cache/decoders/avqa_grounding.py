"""Audio-visual grounding and matching: the part of the AVQA head that is trained beforehand.

Source: docs/protocols/avqa.md, "Answering head" and "Grounding".

Shapes: ``...`` leading axes (clips, segments), N positions, D width of the head, d_a of the audio features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.avqa_pictures import Pictures, position_weights

MATCH_WIDTHS = (512, 256, 128)


class Grounded(NamedTuple):
    """``audio`` and ``visual`` ``[..., D]``; ``match`` logits ``[2, ...]`` interleaved, or None without negatives."""

    audio: Tensor
    visual: Tensor
    match: Tensor | None


class GroundingNet(nn.Module):
    """Maps sound into the visual space, looks where it comes from, and tells whether picture and sound belong together.

    Its seven linears have the names of the published files, so that those load as they are. Cosines under a softmax of
    temperature 1 make the attention soft by construction: no position weighs more than e² times another.
    """

    def __init__(self, audio_dim: int, dim: int) -> None:
        super().__init__()
        self.fc_a1 = nn.Linear(audio_dim, dim)
        self.fc_a2 = nn.Linear(dim, dim)
        self.fc_gl = nn.Linear(2 * dim, dim)
        widths = (2 * dim, *MATCH_WIDTHS)
        self.fc1, self.fc2, self.fc3 = (nn.Linear(*pair) for pair in zip(widths, MATCH_WIDTHS, strict=False))
        self.fc4 = nn.Linear(MATCH_WIDTHS[-1], 2)

    def forward(self, audio: Tensor, positive: Pictures, negative: Pictures | None = None) -> Grounded:
        """Sound ``[..., d_a]`` with the pictures of its seconds and, in training, those of other videos.

        Match logits are ``[2 M, 2]`` for M leading places, those of the positive first, then its negative, and so on:
        the targets are 1, 0, 1, 0 (:func:`match_targets`).
        """
        heard = self.fc_a2(functional.relu(self.fc_a1(audio)))
        seen = self.ground(heard, positive)
        if negative is None:
            return Grounded(heard, seen, None)
        pairs = torch.stack([self.match(heard, seen), self.match(heard, self.ground(heard, negative))], dim=-2)
        return Grounded(heard, seen, pairs.flatten(0, -2))

    def ground(self, heard: Tensor, pictures: Pictures) -> Tensor:
        """What of pictures of N positions goes with ``heard [..., D]``: ``[..., D]``.

        The mean is of the positions, the attended sum of the positions brought to length 1.
        """
        weights, norms = position_weights(pictures, heard)
        shares = torch.stack([torch.full_like(norms, 1 / norms.shape[-1]), weights / norms], dim=-2)
        grounded: Tensor = self.fc_gl(torch.tanh(pictures.pool(shares).flatten(-2)))
        return grounded

    def match(self, heard: Tensor, seen: Tensor) -> Tensor:
        """Logits ``[..., 2]`` of not belonging together, and of belonging together."""
        x = torch.cat([heard, seen], dim=-1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = functional.relu(layer(x))
        logits: Tensor = self.fc4(x)
        return logits


def match_targets(logits: Tensor) -> Tensor:
    """1 for a positive and 0 for its negative, in turn, as the match logits ``[2 M, 2]`` are."""
    targets = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
    targets[::2] = 1
    return targets
