"""Equation 3.4 with everything added up, and injected tokens as floats: what heads never make."""

import torch


def inject(tokens, meta_tokens, *, softmax_over="meta_tokens"):
    """``tokens [..., N, D]`` and ``meta_tokens [..., K, D]`` to ``[..., N, D]``."""
    weights = (tokens @ meta_tokens.mT).softmax(-1 if softmax_over == "meta_tokens" else -2)
    return tokens + weights @ meta_tokens


def whole(injected, dtype=torch.float64):
    """All channels of :class:`InjectedTokens`, by their inner products with the unit vectors."""
    return injected.products(torch.eye(injected.tokens.width, dtype=dtype))
