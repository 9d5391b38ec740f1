"""Attention over the rows of a ``klt`` layer in the space of its components, in PyTorch: any device, any precision.

klt.py carries queries and gradients through the layer's basis and what comes out here back through it. So here a row of
codes is its components ``z = (c - o) step``, and a token at place p of row j has these coordinates beside them: its
normalised form is ``z_j`` at place p, and 1; its raw form is that times sigma, then mu, then 1. The last three, the
*sides*, stand for the frame's rest, for the vector of ones, and for the shift.

This is what every machine's own kernel gives: the two functions :func:`pool_rows` and :func:`pool_rows_back`.

Shapes: F frames, f those of a piece, R rows, P places of a row, N = P R tokens in the order of places, M components, V
vectors, Q queries, C contexts, K mixing rows. Vectors are ``[V, P M]`` or ``[F, V, P M]`` with sides ``[F, V, 3]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.kernels.reference import add_up, frame_windows, softmax_gradient


@dataclass(frozen=True)
class Rows:
    """Rows of codes ``[F, R, bytes]``, steps ``[M]``, and sigma and mu ``[F, N]`` of the tokens.

    ``normed``: attended are normalised tokens. Mixing rows always see raw ones.
    """

    codes: Tensor
    format: KltFormat
    step: Tensor
    sigma: Tensor
    mu: Tensor
    normed: bool = False


@dataclass(frozen=True)
class Coordinates:
    """Vectors, or sums of tokens, in the space of components: ``components [V, P M]`` where all frames have the same
    ones, or ``[F, V, P M]``; ``sides [F, V, 3]`` are a frame's own in either case."""

    components: Tensor
    sides: Tensor


@dataclass(frozen=True)
class RowsGradient:
    """What :func:`pool_rows_back` gives: ``pooled`` are the contexts and mixed tokens again, ``[F, C + K]``."""

    pooled: Coordinates
    queries: Coordinates
    mixing: Tensor


@dataclass(frozen=True)
class RowPiece:
    """Some frames in the working precision: components ``[f, R, M]``, sigma and mu ``[f, 1, N]``."""

    components: Tensor
    sigma: Tensor
    mu: Tensor

    def inner(self, vectors: Tensor) -> Tensor:
        """Of components alone, with ``vectors [f, V, P M]``: ``[f, V, N]``."""
        by_place = vectors.unflatten(-1, (self.places, self.components.shape[-1])).flatten(1, 2)
        products: Tensor = (by_place @ self.components.mT).unflatten(1, (-1, self.places)).flatten(2)
        return products

    def raw(self, products: Tensor, sides: Tensor) -> Tensor:
        """Inner products with raw tokens ``[f, V, N]``, from those of :meth:`inner` and ``sides [f, V, 3]``."""
        rest, ones, shift = sides.split(1, -1)
        raw: Tensor = (products + rest) * self.sigma + self.mu * ones + shift
        return raw

    def pool(self, weights: Tensor, *, normed: bool) -> Coordinates:
        """Sums of tokens under ``weights [f, V, N]``."""
        total = weights.sum(-1)
        if normed:
            sides = torch.stack([total, torch.zeros_like(total), torch.zeros_like(total)], -1)
            return Coordinates(self._sum(weights), sides)
        scaled = weights * self.sigma
        return Coordinates(self._sum(scaled), torch.stack([scaled.sum(-1), (weights * self.mu).sum(-1), total], -1))

    def _sum(self, weights: Tensor) -> Tensor:
        by_place = weights.unflatten(-1, (self.places, self.components.shape[1])).flatten(1, 2)
        sums: Tensor = (by_place @ self.components).unflatten(1, (-1, self.places)).flatten(2)
        return sums

    @property
    def places(self) -> int:
        return self.sigma.shape[-1] // self.components.shape[1]


def fits(rows: Rows) -> bool:
    """Always: it pools any rows."""
    return True


def component_pieces(codes: Tensor, form: KltFormat, step: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """As many frames at a time as fit the cache, their codes ``[F, R, bytes]`` as components ``[f, R, M]``."""
    offsets, steps = form.offsets(step.device).to(step), step[: form.components]
    for window in frame_windows(codes, codes.shape[1] * form.components, step.dtype):
        yield window, form.unpack(codes[window]).to(step.dtype).sub_(offsets).mul_(steps)


def row_pieces(rows: Rows) -> Iterator[tuple[slice, RowPiece]]:
    """Pieces of the frames in the working precision."""
    for window, components in component_pieces(rows.codes, rows.format, rows.step):
        yield window, RowPiece(components, rows.sigma[window].unsqueeze(1), rows.mu[window].unsqueeze(1))


def _of_piece(vectors: Coordinates, window: slice) -> tuple[Tensor, Tensor]:
    """Components ``[f, V, P M]`` and sides of a piece's frames."""
    sides = vectors.sides[window]
    if vectors.components.ndim == 2:
        return vectors.components.expand(len(sides), -1, -1), sides
    return vectors.components[window], sides


def pool_rows(rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int) -> Coordinates:
    """Contexts of ``queries``, added up to C as of :func:`absorbed_pooling`, and mixed tokens of ``mixing [K, N]``.

    Gives ``[F, C + K]`` sums.
    """
    parts = []
    for window, piece in row_pieces(rows):
        components, sides = _of_piece(queries, window)
        logits = piece.inner(components)
        logits = logits if rows.normed else piece.raw(logits, sides)
        parts.append(_pool(piece, rows, add_up(logits.softmax(-1), contexts), mixing))
    return _joined(parts)


def pool_rows_back(
    rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int, gradients: Coordinates
) -> RowsGradient:
    """Go back from the gradients of C contexts and K mixed tokens, ``[F, C + K]``.

    The queries' gradient is a sum over frames, but for its sides, where all frames have the same queries.
    """
    pooled, by_frame = [], []
    shared = queries.components.ndim == 2
    d_queries, d_mixing = torch.zeros_like(queries.components), torch.zeros_like(mixing)
    for window, piece in row_pieces(rows):
        (asking, asking_sides), (given, given_sides) = _of_piece(queries, window), _of_piece(gradients, window)
        # one product serves the logits again, the gradient of the weights, and that of the mixing rows
        products = piece.inner(torch.cat([asking, given], 1))
        logits, d_weights = products.split([asking.shape[1], given.shape[1]], 1)
        of_raw = piece.raw(d_weights, given_sides)
        d_mixing += of_raw[:, contexts:].sum(0)
        logits = logits if rows.normed else piece.raw(logits, asking_sides)
        d_weights = (d_weights if rows.normed else of_raw)[:, :contexts]
        weights = logits.softmax(-1)
        pooled.append(_pool(piece, rows, add_up(weights, contexts), mixing))
        of_piece = piece.pool(softmax_gradient(weights, d_weights), normed=rows.normed)
        if shared:
            d_queries += of_piece.components.sum(0)
        else:
            d_queries[window] = of_piece.components
        by_frame.append(of_piece.sides)
    return RowsGradient(_joined(pooled), Coordinates(d_queries, torch.cat(by_frame)), d_mixing)


def _pool(piece: RowPiece, rows: Rows, weights: Tensor, mixing: Tensor) -> Coordinates:
    attended = piece.pool(weights, normed=rows.normed)
    mixed = piece.pool(mixing.expand(len(weights), -1, -1), normed=False)
    return Coordinates(
        torch.cat([attended.components, mixed.components], 1), torch.cat([attended.sides, mixed.sides], 1)
    )


def _joined(parts: list[Coordinates]) -> Coordinates:
    return Coordinates(torch.cat([part.components for part in parts]), torch.cat([part.sides for part in parts]))
