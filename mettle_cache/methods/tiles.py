"""Attention of a few queries over many stored tokens, without projecting or expanding the tokens.

With Q query vectors per frame, keys and values need no projection of their own: ``u = W_Kᵀ q`` is one D-vector a head,
logits are ``X u`` and the context is ``αᵀ X``. Three things fold into the small side of those two products:

- the affine codec ``x = s (c + z)``: ``X u = C (s u) + u·(s z)`` and ``αᵀ X = s (αᵀ C) + s z``;
- a LayerNorm on the tokens, ``x̃ = r (x - μ)``: μ is one more column of the first product, and ``r = 1/σ`` needs the
  tokens' second moments, which expand the same way;
- the token-mixing branch ``W_g X``: K more rows of the second product.

The backward pass is written by hand. It reads the codes again, recomputes the logits, keeps one float a token (``r``).
Codes become floats a few frames at a time, in a tile that stays in a CPU's cache. Exact: outputs and gradients agree
with ``nn.MultiheadAttention`` to float64 rounding (tests/methods). Source: architecture.md, ideas 1 and 2.

Shapes: F frames (B clips times T segments), N tokens, D channels, Q queries (heads times meta-tokens), K mixing rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mettle_cache.tokens import LayerTokens, unpack_int4

TILE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Tile:
    """Some frames of one layer in the working precision: ``codes [f, N, D]``; ``scale`` and ``offset = scale * zero``
    are ``[f, 1, D]``, or None for tokens that are stored as floats."""

    codes: Tensor
    scale: Tensor | None
    offset: Tensor | None

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products of every token with ``vectors [f, P, D]``: ``[f, P, N]``."""
        if self.scale is None or self.offset is None:
            products: Tensor = vectors @ self.codes.mT
            return products
        shift = (vectors * self.offset).sum(-1, keepdim=True)
        return torch.baddbmm(shift, vectors * self.scale, self.codes.mT)

    def pool(self, weights: Tensor) -> Tensor:
        """Sums of tokens under ``weights [f, P, N]``: ``[f, P, D]``."""
        pooled: Tensor = weights @ self.codes
        if self.scale is None or self.offset is None:
            return pooled
        return pooled.mul_(self.scale).addcmul_(weights.sum(-1, keepdim=True), self.offset)

    def second_moment(self) -> Tensor:
        """Mean square over the channels of every token: ``[f, N]``."""
        width = self.codes.shape[-1]
        if self.scale is None or self.offset is None:
            squares: Tensor = torch.linalg.vector_norm(self.codes, dim=-1).square_()
            return squares / width
        # (s c + o)² = s² c² + 2 o (s c + o) - o², and the middle term is an inner product with 2 o
        squares = torch.linalg.vector_norm(self.codes * self.scale, dim=-1).square_()
        return (squares + self.inner(2 * self.offset).squeeze(1) - self.offset.square().sum(-1)) / width


def frame_tiles(tokens: LayerTokens, dtype: torch.dtype) -> Iterator[tuple[slice, Tile]]:
    """Frames of ``tokens`` (``[F, N, D]`` codes, ``[F, D]`` scale and zero), as many at a time as fit the cache.

    A tile's memory is used again by the next one.
    """
    frames, count, _ = tokens.codes.shape
    budget = TILE_BYTES.get(tokens.codes.device.type, TILE_BYTES["cpu"])
    step = max(1, budget // (count * tokens.width * dtype.itemsize))
    workspace = torch.empty(min(step, frames), count, tokens.width, dtype=dtype, device=tokens.codes.device)
    scale = offset = None
    if tokens.scale is not None and tokens.zero is not None:
        scale = tokens.scale.to(dtype).unsqueeze(1)
        offset = scale * tokens.zero.to(dtype).unsqueeze(1)
    for start in range(0, frames, step):
        window = slice(start, min(start + step, frames))
        part = tokens.codes[window]
        codes = workspace[: part.shape[0]].copy_(unpack_int4(part) if tokens.packed else part)
        if scale is None or offset is None:
            yield window, Tile(codes, None, None)
        else:
            yield window, Tile(codes, scale[window], offset[window])


@dataclass(frozen=True)
class Attention:
    """Softmax weights of one tile, ``[f, Q, N]``, and the token statistics that they used (None without a norm)."""

    weights: Tensor
    mean: Tensor | None
    rstd: Tensor | None

    def normalise(self, products: Tensor, vectors: Tensor) -> Tensor:
        """Turn ``x·v`` (``[f, P, N]``) into ``x̃·v`` for ``vectors [f, P, D]``."""
        if self.mean is None or self.rstd is None:
            return products
        return (products - vectors.sum(-1, keepdim=True) * self.mean.unsqueeze(1)) * self.rstd.unsqueeze(1)

    def pool(self, tile: Tile, weights: Tensor) -> Tensor:
        """Sums of normalised tokens under ``weights [f, P, N]``: ``[f, P, D]``."""
        if self.mean is None or self.rstd is None:
            return tile.pool(weights)
        scaled = weights * self.rstd.unsqueeze(1)
        return tile.pool(scaled) - scaled @ self.mean.unsqueeze(-1)


def attend(tile: Tile, queries: Tensor, products: Tensor, rstd: Tensor | None) -> Attention:
    """Softmax over tokens of ``queries [f, Q, D]``, given their raw ``products [f, Q (+1), N]``.

    With ``rstd [f, N]`` the last row of ``products`` is the tokens' mean.
    """
    if rstd is None:
        return Attention(products.softmax(-1), None, None)
    statistics = Attention(products, products[:, -1], rstd)
    return Attention(statistics.normalise(products[:, :-1], queries).softmax(-1), products[:, -1], rstd)


def _with_mean(queries: Tensor, extra: Tensor | None = None) -> Tensor:
    """Append the row 1/D, whose inner product with a token is the token's mean."""
    mean = queries.new_full((queries.shape[0], 1, queries.shape[-1]), 1 / queries.shape[-1])
    return torch.cat([queries, mean] if extra is None else [queries, mean, extra], dim=1)


def _tile_queries(queries: Tensor, window: slice, frames: int) -> Tensor:
    """The queries of a tile's frames; ``queries`` are ``[Q, D]`` for all frames alike, or ``[F, Q, D]``."""
    return queries.expand(frames, -1, -1) if queries.ndim == 2 else queries[window]


class _AbsorbedPooling(torch.autograd.Function):
    """See :func:`absorbed_pooling`."""

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        queries: Tensor,
        mixing: Tensor | None,
        rstd: Tensor | None,
        eps: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = LayerTokens(codes, scale, zero)
        frames, count, width = codes.shape[0], codes.shape[1], tokens.width
        mixers = 0 if mixing is None else mixing.shape[0]
        context = queries.new_empty(frames, queries.shape[-2], width)
        mixed = queries.new_empty(frames, mixers, width)
        kept = queries.new_empty(frames, count) if eps is not None and rstd is None else rstd
        for window, tile in frame_tiles(tokens, queries.dtype):
            f = tile.codes.shape[0]
            asked = _tile_queries(queries, window, f)
            products = tile.inner(asked if eps is None else _with_mean(asked))
            if eps is not None and rstd is None:
                assert kept is not None
                variance = tile.second_moment() - products[:, -1].square()
                kept[window] = (variance.clamp_min_(0) + eps).rsqrt_()
            attention = attend(tile, asked, products, None if eps is None or kept is None else kept[window])
            context[window] = attention.pool(tile, attention.weights)
            if mixing is not None:
                mixed[window] = tile.pool(mixing.expand(f, -1, -1))
        ctx.save_for_backward(codes, scale, zero, queries, mixing, kept)
        ctx.has_norm = eps is not None
        statistics = kept if kept is not None else queries.new_empty(0)
        ctx.mark_non_differentiable(statistics)
        return context, mixed, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor, d_mixed: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, zero, queries, mixing, rstd = ctx.saved_tensors
        d_queries = torch.zeros_like(queries)
        d_mixing = None if mixing is None else torch.zeros_like(mixing)
        count = queries.shape[-2]
        for window, tile in frame_tiles(LayerTokens(codes, scale, zero), queries.dtype):
            asked = _tile_queries(queries, window, tile.codes.shape[0])
            d_out = torch.cat([d_context[window], d_mixed[window]], dim=1)
            # one product serves the logits again, the gradient of the weights, and the gradient of the mixing rows
            stacked = _with_mean(asked, d_out) if ctx.has_norm else torch.cat([asked, d_out], dim=1)
            head = count + (1 if ctx.has_norm else 0)
            products = tile.inner(stacked)
            attention = attend(tile, asked, products[:, :head], rstd[window] if ctx.has_norm else None)
            d_weights = attention.normalise(products[:, head : head + count], d_context[window])
            centred = d_weights - (attention.weights * d_weights).sum(-1, keepdim=True)
            d_asked = attention.pool(tile, attention.weights * centred)
            if queries.ndim == 2:
                d_queries += d_asked.sum(0)
            else:
                d_queries[window] = d_asked
            if d_mixing is not None:
                d_mixing += products[:, head + count :].sum(0)
        return None, None, None, d_queries, d_mixing, None, None


def absorbed_pooling(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None = None,
    *,
    rstd: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend ``queries`` over tokens and mix tokens, straight from the stored codes.

    Parameters
    ----------
    tokens
        One layer, ``codes [F, N, D]`` (or packed), ``scale`` and ``zero`` ``[F, D]``. They get no gradient.
    queries
        ``[Q, D]`` (the same for every frame) or ``[F, Q, D]``, the logit scale already in them.
    mixing
        Optional ``[K, N]`` weights of the token-mixing branch; it sees the tokens without the norm.
    eps
        The LayerNorm's epsilon, or None for no norm on the attended tokens. The norm's weight and bias belong to the
        caller, who multiplies queries and context by the weight.
    rstd
        The tokens' inverse deviations ``[F, N]`` from an earlier call on the same tokens.

    Returns
    -------
    context
        ``[F, Q, D]``: sums of the (normalised) tokens under the softmax weights.
    mixed
        ``[F, K, D]``: ``mixing @ tokens``; K is 0 without ``mixing``.
    rstd
        ``[F, N]``, or empty without a norm.
    """
    result: tuple[Tensor, Tensor, Tensor] = _AbsorbedPooling.apply(
        tokens.codes, tokens.scale, tokens.zero, queries, mixing, rstd, eps
    )
    return result
