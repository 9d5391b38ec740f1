"""A ViT on the 102 x 128 log-mel of the shared mode."""

from __future__ import annotations

import numpy as np
import torch

from mettle_cache.backbones import create_backbone
from mettle_cache.backbones.vit_audio import read_any_grid


def test_on_its_own_grid_it_is_the_networks_forward():
    network = create_backbone("test_vit", weights="random", seed=1).trunk.network
    x = torch.randn((2, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(read_any_grid(network)(x), network.forward_features(x), atol=1e-6)


def test_position_rows_are_interpolated_along_the_token_axis():
    """Against numpy: half-pixel linear interpolation of all 101 rows, the class token's included, to 49."""
    network = create_backbone("test_vit", weights="random", seed=1).trunk.network
    rows = network.pos_embed[0].numpy().astype(np.float64)
    at = (np.arange(49) + 0.5) * len(rows) / 49 - 0.5
    expected = np.stack([np.interp(at, np.arange(len(rows)), column) for column in rows.T], axis=1)
    seen = []
    handle = network.blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = torch.randn((1, 3, 102, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        read_any_grid(network)(x)
        handle.remove()
        # the last 6 rows of pixels do not fill a patch
        patches = network.patch_embed.proj(x[:, :, :96]).flatten(2).mT
        without = torch.cat((network.cls_token, patches), dim=1)
    assert seen[0].shape == (1, 49, 64)
    assert np.allclose((seen[0] - without)[0].numpy(), expected, atol=1e-5)
