"""Inner products of every token with some vectors, for heads that read each token: no layer of floats is kept or made.

A linear on tokens is such products with its rows. Tokens are decoded some frames at a time, for the products and again
for the vectors' gradient. ``klt`` layers are not decoded at all: vectors go through the basis (klt.py), and

    X W = sigma (z (Pᵀ W) + r W) + mu (1ᵀ W) + shift W.

Shapes: F frames, f those of a piece, N tokens, D channels, V vectors, R rows, P places, M components.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.kernels.klt import Basis
from mettle_cache.methods.kernels.klt_rows import Coordinates, component_pieces
from mettle_cache.methods.kernels.reference import frame_windows
from mettle_cache.methods.kernels.saved_tokens import save_tokens, saved_tokens
from mettle_cache.tokens import LayerTokens


def token_products(tokens: LayerTokens, vectors: Tensor) -> Tensor:
    """``[..., N, V]`` of ``tokens`` ``[..., N, D]`` and ``vectors [V, D]``, or ``[..., V, D]`` for a frame each.

    Tokens get no gradient.
    """
    by_frame = vectors if vectors.ndim == 2 else vectors.flatten(0, -3)
    products: Tensor = _Products.apply(tokens.flatten_frames(), by_frame)
    by_token: Tensor = products.unflatten(0, tokens.codes.shape[:-2])
    return by_token


def project_tokens(tokens: LayerTokens, linear: nn.Linear) -> Tensor:
    """``linear`` of every token: ``[..., N, C]`` of ``tokens [..., N, D]``, in the precision of its weights."""
    with torch.autocast(tokens.codes.device.type, enabled=False):
        products = token_products(tokens, linear.weight)
        return products if linear.bias is None else products + linear.bias


class _Products(torch.autograd.Function):
    """See :func:`token_products`."""

    @staticmethod
    def forward(ctx: Any, tokens: LayerTokens, vectors: Tensor) -> Tensor:
        ctx.form, tensors = save_tokens(tokens)
        ctx.save_for_backward(vectors, *tensors)
        return _multiply_klt(tokens, vectors) if _is_klt(tokens) else _multiply(tokens, vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_products: Tensor) -> tuple[None, Tensor]:
        vectors, *saved = ctx.saved_tensors
        tokens = saved_tokens(ctx.form, saved)
        return None, (_add_up_klt if _is_klt(tokens) else _add_up)(tokens, vectors, d_products)


def _is_klt(tokens: LayerTokens) -> bool:
    return isinstance(tokens.format, KltFormat)


def _multiply(tokens: LayerTokens, vectors: Tensor) -> Tensor:
    products = vectors.new_empty(len(tokens.codes), tokens.count, vectors.shape[-2])
    for window, decoded in _decoded_pieces(tokens, vectors.dtype):
        torch.matmul(decoded, (vectors if vectors.ndim == 2 else vectors[window]).mT, out=products[window])
    return products


def _add_up(tokens: LayerTokens, vectors: Tensor, weights: Tensor) -> Tensor:
    """Sums of tokens under ``weights [F, N, V]``, over all frames where ``vectors`` are for all of them."""
    sums = torch.zeros_like(vectors)
    for window, decoded in _decoded_pieces(tokens, vectors.dtype):
        if vectors.ndim == 2:
            sums.addmm_(weights[window].flatten(0, 1).mT, decoded.flatten(0, 1))
        else:
            sums[window] = weights[window].mT @ decoded
    return sums


def _decoded_pieces(tokens: LayerTokens, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    for window in frame_windows(tokens.codes, tokens.count * tokens.width, dtype):
        yield window, tokens[window].floats(dtype)


def _multiply_klt(tokens: LayerTokens, vectors: Tensor) -> Tensor:
    """Rows of codes by the vectors of all places, then every token by its own sigma and mu."""
    form, basis = cast(KltFormat, tokens.format), Basis.of(tokens, vectors.dtype)
    carried, norm = basis.carry(vectors), tokens.parts["norm"].to(vectors.dtype)
    by_place = carried.components.unflatten(-1, (form.places, form.components)).transpose(-3, -2).flatten(-3, -2)
    products = vectors.new_empty(len(tokens.codes), tokens.count, vectors.shape[-2])
    for window, rows in component_pieces(tokens.codes, form, tokens.static["step"].to(vectors.dtype)):
        of_rows = rows @ (by_place if vectors.ndim == 2 else by_place[window]).mT
        of_tokens = form.from_cells(of_rows.unflatten(-1, (form.places, vectors.shape[-2])))
        rest, ones, shift = carried.sides[window].unsqueeze(1).unbind(-1)
        mu, sigma = norm[window].split(1, -1)
        torch.add((of_tokens + rest).mul_(sigma).addcmul_(mu, ones), shift, out=products[window])
    return products


def _add_up_klt(tokens: LayerTokens, vectors: Tensor, weights: Tensor) -> Tensor:
    form, basis = cast(KltFormat, tokens.format), Basis.of(tokens, vectors.dtype)
    norm, shared = tokens.parts["norm"].to(vectors.dtype), vectors.ndim == 2
    # [V P, M], or [F, V P, M]
    sums = vectors.new_zeros(*vectors.shape[:-2], form.places * vectors.shape[-2], form.components)
    sides = vectors.new_empty(len(tokens.codes), vectors.shape[-2], 3)
    for window, rows in component_pieces(tokens.codes, form, tokens.static["step"].to(vectors.dtype)):
        mu, sigma = norm[window].split(1, -1)
        scaled = weights[window] * sigma
        by_place = form.to_cells(scaled).flatten(-2)
        if shared:
            sums.addmm_(by_place.flatten(0, 1).mT, rows.flatten(0, 1))
        else:
            sums[window] = by_place.mT @ rows
        level, total = (weights[window].mT @ mu).squeeze(-1), weights[window].sum(1)
        sides[window] = torch.stack([scaled.sum(1), level, total], -1)
    components = sums.unflatten(-2, (form.places, vectors.shape[-2])).transpose(-3, -2).flatten(-2)
    found = Coordinates(components, sides)
    return basis.back_over_frames(found) if shared else basis.back(found)
