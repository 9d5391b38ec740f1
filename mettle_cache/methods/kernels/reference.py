"""Absorbed attention in PyTorch, a few frames at a time: any device, any precision, any tokens.

An affine codec and a LayerNorm are folded into the vectors of the two products (ops.py says which these are):

- ``x = s (c + z)``: ``X u = C (s u) + u·(s z)`` and ``αᵀ X = s (αᵀ C) + s z``;
- ``x̃ = r (x - μ)``: μ is one more column of the first product, and ``r = 1/σ`` needs the tokens' second moments, which
  expand the same way.

Codes become floats for a few frames at a time, a piece that stays in a CPU's cache.

Shapes: F frames (B clips times T segments), f those of a piece, N tokens, D channels, Q queries, C contexts, K mixing
rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.tokens import LayerTokens

# memory for the floats of a piece, by device
PIECE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Always: it pools any tokens."""
    return True


@contextlib.contextmanager
def announced(note: Callable[[str], None], device: torch.device) -> Iterator[None]:
    """Nothing is compiled."""
    yield


@dataclass(frozen=True)
class FramePiece:
    """Some frames of one layer in the working precision: ``codes [f, N, D]``; ``scale`` and ``offset = scale * zero``
    are ``[f, 1, D]``, or None where the codes are the tokens."""

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


def frame_windows(codes: Tensor, numbers: int, dtype: torch.dtype) -> list[slice]:
    """Pieces of the frames of ``codes [F, *]``, of which each becomes so many numbers."""
    frames = codes.shape[0]
    room = PIECE_BYTES.get(codes.device.type, PIECE_BYTES["cpu"])
    step = max(1, room // (max(numbers, 1) * dtype.itemsize))
    return [slice(start, min(start + step, frames)) for start in range(0, frames, step)]


def frame_pieces(tokens: LayerTokens, dtype: torch.dtype) -> Iterator[tuple[slice, FramePiece]]:
    """Frames of one layer, its axes F first, as many at a time as fit the cache.

    Codes of an affine format stay as they are, beside scale and offset; those of other formats are decoded.
    """
    windows = frame_windows(tokens.codes, tokens.count * tokens.width, dtype)
    scale, zero = tokens.scale, tokens.zero
    if not tokens.format.affine or (scale is None) != (zero is None):
        for window in windows:
            yield window, FramePiece(tokens[window].floats(dtype), None, None)
        return
    # a piece's memory is used again by the next one
    step = max((window.stop - window.start for window in windows), default=0)
    workspace = torch.empty(step, tokens.count, tokens.width, dtype=dtype, device=tokens.codes.device)
    scale = None if scale is None else scale.to(dtype).unsqueeze(1)
    offset = None if scale is None or zero is None else scale * zero.to(dtype).unsqueeze(1)
    for window in windows:
        codes = workspace[: window.stop - window.start].copy_(tokens.format.unpack(tokens.codes[window]))
        if scale is None or offset is None:
            yield window, FramePiece(codes, None, None)
        else:
            yield window, FramePiece(codes, scale[window], offset[window])


@dataclass(frozen=True)
class Attention:
    """Softmax weights of a piece of frames, ``[f, Q, N]``, and its tokens' statistics, None without a norm."""

    weights: Tensor
    mean: Tensor | None
    rstd: Tensor | None

    def normalise(self, products: Tensor, vectors: Tensor) -> Tensor:
        """Turn ``x·v`` (``[f, P, N]``) into ``x̃·v`` for ``vectors [f, P, D]``."""
        if self.mean is None or self.rstd is None:
            return products
        return (products - vectors.sum(-1, keepdim=True) * self.mean.unsqueeze(1)) * self.rstd.unsqueeze(1)

    def pool(self, piece: FramePiece, weights: Tensor) -> Tensor:
        """Sums of normalised tokens under ``weights [f, P, N]``: ``[f, P, D]``."""
        if self.mean is None or self.rstd is None:
            return piece.pool(weights)
        scaled = weights * self.rstd.unsqueeze(1)
        return piece.pool(scaled) - scaled @ self.mean.unsqueeze(-1)


def attend(piece: FramePiece, queries: Tensor, products: Tensor, eps: float | None) -> Attention:
    """Softmax over tokens of ``queries [f, Q, D]``, given their raw ``products [f, Q (+1), N]``.

    With a norm (``eps`` is given) the last row of ``products`` is the tokens' mean.
    """
    if eps is None:
        return Attention(products.softmax(-1), None, None)
    mean = products[:, -1]
    rstd = (piece.second_moment() - mean.square()).clamp_min_(0).add_(eps).rsqrt_()
    statistics = Attention(products, mean, rstd)
    return Attention(statistics.normalise(products[:, :-1], queries).softmax(-1), mean, rstd)


def _with_mean(queries: Tensor, extra: Tensor | None = None) -> Tensor:
    """Append the row 1/D, whose inner product with a token is the token's mean."""
    mean = queries.new_full((queries.shape[0], 1, queries.shape[-1]), 1 / queries.shape[-1])
    return torch.cat([queries, mean] if extra is None else [queries, mean, extra], dim=1)


def add_up(weights: Tensor, contexts: int) -> Tensor:
    """Weights of each context ``[f, C, N]``: the sums of those of its queries, of ``weights [f, Q, N]``."""
    if weights.shape[1] == contexts:
        return weights
    summed: Tensor = weights.unflatten(1, (-1, contexts)).sum(1)
    return summed


def softmax_gradient(weights: Tensor, d_weights: Tensor) -> Tensor:
    """Gradient of the scores ``[f, Q, N]``, from that of the contexts' weights ``[f, C, N]``."""
    if not weights.shape[1]:
        return weights
    by_context = weights.unflatten(1, (-1, d_weights.shape[1]))
    d_shared = d_weights.unsqueeze(1)
    gradient: Tensor = by_context * (d_shared - (by_context * d_shared).sum(-1, keepdim=True))
    return gradient.flatten(1, 2)


def _queries_of_piece(queries: Tensor, window: slice, frames: int) -> Tensor:
    """The queries of a piece's frames; ``queries`` are ``[Q, D]`` for all frames alike, or ``[F, Q, D]``."""
    return queries.expand(frames, -1, -1) if queries.ndim == 2 else queries[window]


@dataclass(frozen=True)
class PoolingGradient:
    """What a backward pass gives: the pooled tokens again, and the gradients of queries and mixing rows."""

    context: Tensor
    mixed: Tensor
    queries: Tensor
    mixing: Tensor | None


def pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
) -> tuple[Tensor, Tensor]:
    """``context [C, F, D]`` and ``mixed [F, K, D]`` of :func:`mettle_cache.methods.kernels.ops.absorbed_pooling`."""
    frames = tokens.codes.shape[0]
    context = queries.new_empty(contexts, frames, tokens.width)
    mixed = queries.new_empty(frames, 0 if mixing is None else mixing.shape[0], tokens.width)
    for window, piece in frame_pieces(tokens, queries.dtype):
        piece_queries = _queries_of_piece(queries, window, piece.codes.shape[0])
        products = piece.inner(piece_queries if eps is None else _with_mean(piece_queries))
        attention = attend(piece, piece_queries, products, eps)
        context[:, window] = attention.pool(piece, add_up(attention.weights, contexts)).transpose(0, 1)
        if mixing is not None:
            mixed[window] = piece.pool(mixing.expand(piece.codes.shape[0], -1, -1))
    return context, mixed


def pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    """Read the tokens again and go back from ``d_context [C, F, D]`` and ``d_mixed [F, K, D]``."""
    context, mixed = torch.empty_like(d_context), torch.empty_like(d_mixed)
    d_queries = torch.zeros_like(queries)
    d_mixing = None if mixing is None else torch.zeros_like(mixing)
    contexts = d_context.shape[0]
    # rows of products that serve the softmax: the queries', and the mean's
    rows = queries.shape[-2] + (eps is not None)
    for window, piece in frame_pieces(tokens, queries.dtype):
        piece_queries = _queries_of_piece(queries, window, piece.codes.shape[0])
        d_contexts = d_context[:, window].transpose(0, 1)
        d_out = torch.cat([d_contexts, d_mixed[window]], dim=1)
        # one product serves the logits again, the gradient of the weights, and the gradient of the mixing rows
        vectors = torch.cat([piece_queries, d_out], dim=1) if eps is None else _with_mean(piece_queries, d_out)
        products = piece.inner(vectors)
        attention = attend(piece, piece_queries, products[:, :rows], eps)
        d_weights = attention.normalise(products[:, rows : rows + contexts], d_contexts)
        d_piece = attention.pool(piece, softmax_gradient(attention.weights, d_weights))
        context[:, window] = attention.pool(piece, add_up(attention.weights, contexts)).transpose(0, 1)
        if queries.ndim == 2:
            d_queries += d_piece.sum(0)
        else:
            d_queries[window] = d_piece
        if mixing is not None and d_mixing is not None:
            mixed[window] = piece.pool(mixing.expand(piece.codes.shape[0], -1, -1))
            d_mixing += products[:, rows + contexts :].sum(0)
    return PoolingGradient(context, mixed, d_queries, d_mixing)


def norm_gradients(
    d_normed: Tensor, d_shift: Tensor, values: Tensor, norm: Tensor, norm_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """From a projection's ``values * norm`` and ``values @ norm_bias`` back to ``norm`` and ``norm_bias [D]``.

    Their gradients are returned; the gradient of ``values [D, D]`` is written over ``d_normed``.
    """
    d_norm = (d_normed * values).sum(0)
    d_normed.mul_(norm).addr_(d_shift, norm_bias)
    return d_norm, d_shift @ values
