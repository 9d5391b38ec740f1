"""The twin of klt_rows.py on an NVIDIA GPU, by the kernel of kernel.py, in float32: planes are unpacked in registers.

Shapes: F frames, R rows, P places, S rows with room for more, N = P R tokens, M components, V vectors, Q queries, C
contexts, K mixing rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.klt_tokens import BITS
from mettle_cache.methods.kernels.cuda.machine import can_run
from mettle_cache.methods.kernels.klt_rows import Coordinates, Rows, RowsGradient

if TYPE_CHECKING:
    from mettle_cache.methods.kernels.cuda.launch import Pooled


def fits(rows: Rows) -> bool:
    """Whether these are rows that the kernel is for, on a GPU that runs it."""
    return can_run(rows.codes.device) and is_kernel_for(rows)


def is_kernel_for(rows: Rows) -> bool:
    """Whether the kernel is for such rows, wherever they are: in single precision, with any codes."""
    return rows.codes.numel() > 0 and rows.step.dtype == torch.float32


def pool_rows(rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int) -> Coordinates:
    """As :func:`mettle_cache.methods.kernels.klt_rows.pool_rows`."""
    pooled = _pool(rows, queries, mixing, contexts, None)
    return Coordinates(_components(pooled.sums[0], rows), _sides(pooled, rows))


def pool_rows_back(
    rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int, gradients: Coordinates
) -> RowsGradient:
    """As :func:`mettle_cache.methods.kernels.klt_rows.pool_rows_back`."""
    pooled = _pool(rows, queries, mixing, contexts, gradients)
    of_queries, of_pooled = _sides(pooled, rows).split([queries.sides.shape[1], gradients.sides.shape[1]], 1)
    by_place = pooled.d_mixing[0].unflatten(-1, (rows.format.places, -1))
    return RowsGradient(
        Coordinates(_components(pooled.sums[0], rows), of_pooled),
        Coordinates(_components(pooled.d_queries[0], rows), of_queries),
        by_place[..., : rows.codes.shape[1]].flatten(1),
    )


def _pool(rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int, gradients: Coordinates | None) -> Pooled:
    from mettle_cache.methods.kernels.cuda.kernel import Block
    from mettle_cache.methods.kernels.cuda.launch import Pooling, pool_blocks

    form = rows.format
    pooling = Pooling(
        queries=queries.sides.shape[1],
        contexts=contexts,
        mixers=len(mixing),
        rows=rows.codes.shape[1],
        width=form.components,
        places=form.places,
        planes=form.plane_bytes,
        norm=rows.normed,
        shared=queries.components.ndim == 2,
        back=gradients is not None,
    )
    asked = _by_place(queries.components, rows)
    d_pooled = asked if gradients is None else _by_place(gradients.components, rows)
    sides = queries.sides if gradients is None else torch.cat([queries.sides, gradients.sides], 1)
    scale, zero = _affine(rows)
    block = Block(
        codes=rows.codes.contiguous(),
        scale=scale,
        zero=zero,
        asked=asked,
        d_context=d_pooled if gradients is None else d_pooled[:, : contexts * form.places],
        d_mixed=d_pooled if gradients is None else d_pooled[:, contexts * form.places :],
        mixing=_with_room(mixing.detach(), rows, pooling.room),
        sigma=_with_room(rows.sigma, rows, pooling.room),
        mu=_with_room(rows.mu, rows, pooling.room),
        sides=sides.detach().contiguous(),
    )
    return pool_blocks([block], pooling)


def _affine(rows: Rows) -> tuple[Tensor, Tensor]:
    """Scale and zero ``[M]``, with which the codes that the kernel sees are components: ``scale * (code + zero)``.

    It sees signed bytes of 8 bits, and fewer bits as products.py lifts them.
    """
    form, device = rows.format, rows.step.device
    pairs = zip(form.planes, BITS, strict=True)
    lifts = [torch.full((number,), 2.0 ** max(7 - bits, 0), device=device) for number, bits in pairs]
    lift, zero = torch.cat(lifts), -form.offsets(device)
    zero[: form.planes[0]] += 128
    return rows.step / lift, zero * lift


def _by_place(components: Tensor, rows: Rows) -> Tensor:
    """``[..., V P, M]`` of ``[..., V, P M]``."""
    by_place: Tensor = components.detach().unflatten(-1, (rows.format.places, -1)).flatten(-3, -2).contiguous()
    return by_place


def _components(sums: Tensor, rows: Rows) -> Tensor:
    """The inverse of :func:`_by_place`."""
    components: Tensor = sums.unflatten(-2, (-1, rows.format.places)).flatten(-2)
    return components


def _sides(pooled: Pooled, rows: Rows) -> Tensor:
    """``[F, W, 3]``: sums over the places."""
    sides: Tensor = pooled.sides[0].unflatten(1, (-1, rows.format.places)).sum(2)
    return sides


def _with_room(weights: Tensor, rows: Rows, room: int) -> Tensor:
    """``[..., P S]`` of ``[..., N]``."""
    by_place = weights.unflatten(-1, (rows.format.places, -1))
    return torch.nn.functional.pad(by_place, (0, room - by_place.shape[-1])).flatten(-2).contiguous()
