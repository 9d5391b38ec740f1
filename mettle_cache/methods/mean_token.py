"""The mean of a layer's tokens, from the stored codes: all that Direct, linear probing and the layer mean read.

Shapes: ``...`` leading axes (clips, segments), N tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.tokens import LayerTokens

NORM_EPS = 1e-5
"""That of the final norms of Swin-V2 and HTS-AT; ViT has 1e-6, another norm for variances near 1e-5 only."""


def mean_token(tokens: LayerTokens, dtype: torch.dtype = torch.float32, *, norm: bool = False) -> Tensor:
    """Mean over the N tokens, ``[..., D]``: codes are averaged and only the mean is decoded.

    With ``norm`` each token goes through a LayerNorm without weight and bias first. A store holds no backbone's
    weights, and needs none here: ``weight * mean + bias`` is affine in the mean, so the linear that follows can learn
    it. A query of zeros weighs all tokens alike, which makes the mean one of the kernels' contexts.
    """
    if tokens.format.affine and not norm:
        return _affine_mean(tokens, dtype)
    frames, device = tokens.flatten_frames(), tokens.codes.device
    # logits and statistics stay in full precision
    with torch.autocast(device.type, enabled=False):
        if norm:
            query = torch.zeros(1, tokens.width, dtype=dtype, device=device)
            pooled = absorbed_pooling(frames, query, eps=NORM_EPS)[0]
        else:
            alike = torch.full((1, tokens.count), 1 / tokens.count, dtype=dtype, device=device)
            pooled = absorbed_pooling(frames, alike.new_empty(0, tokens.width), alike)[1]
    return pooled.reshape(*tokens.codes.shape[:-2], tokens.width)


def _affine_mean(tokens: LayerTokens, dtype: torch.dtype) -> Tensor:
    mean = tokens.format.unpack(tokens.codes).mean(dim=-2, dtype=dtype)
    if tokens.scale is None or tokens.zero is None:
        return mean
    return tokens.scale.to(dtype) * (mean + tokens.zero.to(dtype))
