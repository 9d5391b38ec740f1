"""``klt`` layers pooled without decoding: vectors go through the layer's basis, tokens never do.

With x a normalised and X a raw token, ``x = z Pᵀ + r`` and ``X = sigma x + mu 1 + shift``, where z are a row's
components. So an inner product with a vector v takes ``v P``, ``r·v``, ``1·v`` and ``shift·v``, and a sum of tokens is
a sum of components, once through the basis, and a share of r, 1 and shift. Queries that all frames share go through the
basis once for all of them; contexts and gradients, a few a frame, in one product of matrices. Between lie rows of M
codes: klt_rows.py, or a kernel of the machine's own that gives the same.

With a norm the attended tokens are x as they decode, which is what ``LayerTokens.normalised`` gives. With cells the
places of a row have parts of the basis of their own, and a query is as many vectors. Source: docs/design.md, "Codes
without dequantisation".

Shapes: F frames, N tokens, D channels, R rows, P places, M components, V vectors, Q queries, C contexts, K mixing rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.kernels import klt_rows, reference
from mettle_cache.methods.kernels.cpu import klt_pooling, pooling
from mettle_cache.methods.kernels.cuda import klt_pooling as gpu_klt_pooling
from mettle_cache.methods.kernels.cuda import pooling as gpu_pooling
from mettle_cache.methods.kernels.cuda.machine import can_run
from mettle_cache.methods.kernels.klt_rows import Coordinates, Rows, RowsGradient
from mettle_cache.methods.kernels.reference import PoolingGradient
from mettle_cache.tokens import LayerTokens


def fits(tokens: LayerTokens, queries: Tensor) -> bool:
    """Whether they are ``klt`` tokens."""
    return isinstance(tokens.format, KltFormat)


def announced(note: Callable[[str], None], device: torch.device) -> AbstractContextManager[None]:
    """Call ``note`` once if a machine's own kernel is compiled inside the block."""
    if device.type == "cpu":
        return pooling.announced(note, device)
    return gpu_pooling.announced(note, device) if can_run(device) else nullcontext()


def norm_gradients(
    d_normed: Tensor, d_shift: Tensor, values: Tensor, norm: Tensor, norm_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.norm_gradients`."""
    compiled = norm.device.type == "cpu" and norm.dtype == torch.float32
    gradients = pooling.norm_gradients if compiled else reference.norm_gradients
    return gradients(d_normed, d_shift, values, norm, norm_bias)


class RowPooling(Protocol):
    """A way to pool rows of codes; a row of :data:`ROW_POOLINGS`."""

    def fits(self, rows: Rows) -> bool: ...

    def pool_rows(self, rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int) -> Coordinates: ...

    def pool_rows_back(
        self, rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int, gradients: Coordinates
    ) -> RowsGradient: ...


ROW_POOLINGS: tuple[RowPooling, ...] = (klt_pooling, gpu_klt_pooling, klt_rows)


def choose_row_pooling(rows: Rows) -> RowPooling:
    """The first that fits; klt_rows.py fits everything."""
    return next(way for way in ROW_POOLINGS if way.fits(rows))


@dataclass(frozen=True)
class Basis:
    """The way between channels and components: ``places [P, D, M]``; ``sides [F, 3, D]`` are rest, ones and shift."""

    places: Tensor
    sides: Tensor

    @classmethod
    def of(cls, tokens: LayerTokens, dtype: torch.dtype) -> Basis:
        form = cast(KltFormat, tokens.format)
        # most planes' components first: a store's basis may have more than this layer keeps
        vectors = tokens.static["basis"][:, : form.components].to(dtype)
        rest = tokens.parts["rest"].to(dtype)
        shift = tokens.parts["shift"].to(dtype) if form.shifted else torch.zeros_like(rest)
        return cls(
            vectors.unflatten(0, (form.places, form.width)), torch.stack([rest, torch.ones_like(rest), shift], 1)
        )

    def carry(self, vectors: Tensor) -> Coordinates:
        """Coordinates of ``vectors [V, D]`` or ``[F, V, D]``: inner products with them are those with the vectors."""
        components = torch.cat([vectors @ place for place in self.places], -1)
        if vectors.ndim == 3:
            return Coordinates(components, vectors @ self.sides.mT)
        sides = (self.sides.flatten(0, 1) @ vectors.mT).unflatten(0, self.sides.shape[:2])
        return Coordinates(components, sides.mT)

    def back(self, sums: Coordinates) -> Tensor:
        """Sums of tokens ``[F, V, D]``."""
        frames, count, _ = sums.components.shape
        summed = self._through(sums.components.flatten(0, 1)).view(frames, count, self.sides.shape[-1])
        return summed.baddbmm_(sums.sides, self.sides)

    def back_over_frames(self, sums: Coordinates) -> Tensor:
        """Sums of tokens of all frames, ``[V, D]``, whose components were added up over the frames already."""
        sides = sums.sides.transpose(0, 1).flatten(1)
        return self._through(sums.components).addmm_(sides, self.sides.flatten(0, 1))

    def _through(self, components: Tensor) -> Tensor:
        """``[V, D]`` of ``[V, P M]``."""
        first, *others = components.split(self.places.shape[-1], -1) if components.shape[-1] else (components,)
        summed: Tensor = first @ self.places[0].mT
        for place, of_place in zip(self.places[1:], others, strict=False):
            summed.addmm_(of_place, place.mT)
        return summed


def make_rows(tokens: LayerTokens, dtype: torch.dtype, *, normed: bool) -> Rows:
    """A layer's rows, tokens in the order of places."""
    form = cast(KltFormat, tokens.format)
    mu, sigma = (by_places(form, part.unsqueeze(-2)).squeeze(-2) for part in tokens.parts["norm"].unbind(-1))
    step = tokens.static["step"][: form.components]
    return Rows(tokens.codes, form, step.to(dtype), sigma.to(dtype), mu.to(dtype), normed)


def by_places(form: KltFormat, weights: Tensor) -> Tensor:
    """``[..., V, N]`` in the order of tokens, in the order of places: row by row at the first place, and so on."""
    if form.places == 1:
        return weights
    cells = form.to_cells(weights.mT)
    return cells.transpose(-3, -2).flatten(-3, -2).mT


def from_places(form: KltFormat, weights: Tensor) -> Tensor:
    """The inverse of :func:`by_places`."""
    if form.places == 1:
        return weights
    rows = weights.mT.unflatten(-2, (form.places, -1)).transpose(-3, -2)
    return form.from_cells(rows).mT


def pool(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None, contexts: int
) -> tuple[Tensor, Tensor]:
    """As :func:`mettle_cache.methods.kernels.reference.pool`."""
    rows, basis, weights = _prepare(tokens, queries, mixing, eps)
    pooled = basis.back(choose_row_pooling(rows).pool_rows(rows, basis.carry(queries), weights, contexts))
    return pooled[:, :contexts].transpose(0, 1), pooled[:, contexts:]


def pool_backward(
    tokens: LayerTokens,
    queries: Tensor,
    mixing: Tensor | None,
    eps: float | None,
    d_context: Tensor,
    d_mixed: Tensor,
) -> PoolingGradient:
    """As :func:`mettle_cache.methods.kernels.reference.pool_backward`."""
    rows, basis, weights = _prepare(tokens, queries, mixing, eps)
    contexts, gradients = len(d_context), torch.cat([d_context.transpose(0, 1), d_mixed], 1)
    found = choose_row_pooling(rows).pool_rows_back(
        rows, basis.carry(queries), weights, contexts, basis.carry(gradients)
    )
    pooled = basis.back(found.pooled)
    return PoolingGradient(
        pooled[:, :contexts].transpose(0, 1),
        pooled[:, contexts:],
        basis.back_over_frames(found.queries) if queries.ndim == 2 else basis.back(found.queries),
        None if mixing is None else from_places(rows.format, found.mixing),
    )


def _prepare(
    tokens: LayerTokens, queries: Tensor, mixing: Tensor | None, eps: float | None
) -> tuple[Rows, Basis, Tensor]:
    """Rows, the basis, and mixing rows ``[K, N]`` in the order of places."""
    rows = make_rows(tokens, queries.dtype, normed=eps is not None)
    weights = queries.new_empty(0, tokens.count) if mixing is None else by_places(rows.format, mixing)
    return rows, Basis.of(tokens, queries.dtype), weights
