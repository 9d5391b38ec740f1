"""A ViT reading a picture of another shape than it was trained on (spec-avel.md section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def read_any_grid(network: Any) -> Callable[[Tensor], Tensor]:
    """``forward_features`` for pictures [B, 3, H, W] of any size, as LAVISH reads a log-mel with a ViT.

    All rows of the position embedding, the class token's included, are interpolated linearly along the token axis to
    the number of tokens; pixels that do not fill a patch are left out. 102 x 128 gives 1 + 6 * 8 = 49 tokens.
    """

    def run(x: Tensor) -> Tensor:
        patches = network.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((network.cls_token.expand(len(x), -1, -1), network.patch_embed.norm(patches)), dim=1)
        positions = network.pos_embed.transpose(1, 2)
        positions = functional.interpolate(positions, tokens.shape[1], mode="linear", align_corners=False)
        features: Tensor = network.norm(network.blocks(network.norm_pre(tokens + positions.transpose(1, 2))))
        return features

    return run
