"""The twin of klt_rows.py on a CPU, compiled, in float32: planes become bytes while a few frames are in the cache.

The products are those of affine codes (pooling.py), with the same scale and offset for all frames: a component is
``(byte + 1/2) step`` (planes.py). klt_softmax.py stands between them.

Shapes: F frames, f those of a part, R rows, P places, N = P R tokens, M components, V vectors, Q queries, C contexts, K
mixing rows. A place has room for a few more values than R, so that a row of N weights is longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.methods.kernels.cpu.parts import ROW_STEP, frames_a_part, run_parts
from mettle_cache.methods.kernels.klt_rows import Coordinates, Rows, RowsGradient

# the compiled modules are imported where they are first needed: Numba takes long to import

Array = NDArray[Any]


def fits(rows: Rows) -> bool:
    """Whether these are rows of codes that are multiplied here, in single precision."""
    return rows.format.components > 0 and rows.codes.device.type == "cpu" and rows.step.dtype == torch.float32


def pool_rows(rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int) -> Coordinates:
    """As :func:`mettle_cache.methods.kernels.klt_rows.pool_rows`."""
    from mettle_cache.methods.kernels.cpu.klt_softmax import weigh_rows

    layer = _Layer(rows, mixing)
    asked = queries.sides.contiguous().numpy()
    sums, sides = layer.new_sums(contexts + len(mixing))
    vectors = (layer.vectors(queries.components), layer.no_rows, layer.no_rows.swapaxes(0, 1))

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_rows(part.rows(), asked[part.frames], layer.mixing, contexts, *part.tokens(), sides[part.frames])
        part.sum(layer.no_rows[:, 0], sums[part.frames])

    layer.run(work, asked.shape[1], sides.shape[1])
    return layer.coordinates(sums, sides)


def pool_rows_back(
    rows: Rows, queries: Coordinates, mixing: Tensor, contexts: int, gradients: Coordinates
) -> RowsGradient:
    """As :func:`mettle_cache.methods.kernels.klt_rows.pool_rows_back`."""
    from mettle_cache.methods.kernels.cpu.klt_softmax import weigh_rows_back

    layer = _Layer(rows, mixing)
    asked, given = (side.contiguous().numpy() for side in (queries.sides, gradients.sides))
    count = asked.shape[1]
    # gradients of queries that all frames share are added up over the frames
    shared = count if queries.components.ndim == 2 else 0
    sums, sides = layer.new_sums(count - shared + given.shape[1], sides=count + given.shape[1])
    d_queries = np.zeros((layer.parts, shared * layer.places, rows.format.components), np.float32)
    d_mixing = np.zeros((layer.parts, *layer.mixing.shape), np.float32)
    vectors = (layer.vectors(queries.components), layer.no_rows, layer.vectors(gradients.components))

    def work(part: _Part) -> None:
        part.score(vectors)
        weigh_rows_back(
            *(part.rows(), asked[part.frames], given[part.frames], layer.mixing, contexts),
            *(*part.tokens(), sides[part.frames], d_mixing[part.number]),
        )
        part.sum(d_queries[part.number], sums[part.frames])

    layer.run(work, sides.shape[1], sides.shape[1])
    pooled = layer.coordinates(sums[:, (count - shared) * layer.places :], sides[:, count:])
    of_queries = layer.coordinates(sums[:, : (count - shared) * layer.places], sides[:, :count])
    if queries.components.ndim == 2:
        summed = torch.from_numpy(d_queries.sum(0)).view(shared, queries.components.shape[1])
        of_queries = Coordinates(summed, of_queries.sides)
    return RowsGradient(pooled, of_queries, layer.without_gaps(torch.from_numpy(d_mixing.sum(0))))


class _Layer:
    """Rows as the arrays that the compiled loops take."""

    def __init__(self, rows: Rows, mixing: Tensor) -> None:
        self.frames, self.count, _ = rows.codes.shape
        self.format, self.places, self.normed = rows.format, rows.format.places, rows.normed
        self.room = -(-self.count // ROW_STEP) * ROW_STEP
        self.step = frames_a_part(self.count, rows.format.components)
        self.parts = -(-self.frames // self.step)
        self.codes: Array = rows.codes.contiguous().numpy()
        self.sigma, self.mu = (part.unflatten(-1, (self.places, -1)).numpy() for part in (rows.sigma, rows.mu))
        scale = rows.step.unsqueeze(0).contiguous()
        self.scale, self.offset = scale.numpy(), (scale / 2).numpy()
        padded = mixing.new_zeros(len(mixing), self.places, self.room)
        padded[..., : self.count] = mixing.detach().unflatten(-1, (self.places, -1))
        self.mixing: Array = padded.flatten(1).numpy()
        self.no_rows = np.empty((0, self.frames, rows.format.components), np.float32)

    def vectors(self, components: Tensor) -> Array:
        """``[G, V P, M]`` of ``[V, P M]``, with G = 1, or of ``[F, V, P M]``."""
        by_frame = components.detach() if components.ndim == 3 else components.detach().unsqueeze(0)
        by_place: Array = (
            by_frame.contiguous().view(len(by_frame), by_frame.shape[1] * self.places, self.format.components).numpy()
        )
        return by_place

    def new_sums(self, count: int, *, sides: int | None = None) -> tuple[Array, Array]:
        """Memory for sums ``[F, count P, M]`` and for their sides ``[F, count, 3]``, or more of these."""
        components = np.empty((self.frames, count * self.places, self.format.components), np.float32)
        return components, np.empty((self.frames, count if sides is None else sides, 3), np.float32)

    def coordinates(self, sums: Array, sides: Array) -> Coordinates:
        by_place = torch.from_numpy(sums)
        whole = by_place.reshape(self.frames, by_place.shape[1] // self.places, self.places * by_place.shape[2])
        return Coordinates(whole, torch.from_numpy(sides))

    def without_gaps(self, rows: Tensor) -> Tensor:
        """``[K, N]`` of rows with room behind every place."""
        without: Tensor = rows.unflatten(-1, (self.places, self.room))[..., : self.count].flatten(1)
        return without

    def run(self, work: Callable[[_Part], None], vectors: int, rows: int) -> None:
        """Do ``work`` on every part; there are so many vectors, and so many rows of weights."""

        def make_worker() -> Callable[[int], None]:
            part = _Part(self, vectors, rows)

            def work_on(number: int) -> None:
                part.move_to(number)
                work(part)

            return work_on

        run_parts(self.parts, make_worker)


class _Part:
    """Some frames of a layer, in memory that a thread uses again for its next part."""

    def __init__(self, layer: _Layer, vectors: int, rows: int) -> None:
        from mettle_cache.methods.kernels.cpu.planes import SLACK, expand_planes

        self._layer, self._expand = layer, expand_planes
        step, places, room = layer.step, layer.places, layer.room
        shape = (step, layer.count, layer.format.components)
        self._bytes = np.empty(math.prod(shape) + SLACK, np.int8)
        self._codes = self._bytes[: math.prod(shape)].reshape(shape)
        self._products = np.empty((step, max(vectors, rows) * places, room), np.float32)
        self._totals = np.empty((step, vectors * places), np.float32)
        self._less = np.zeros((step, rows * places), np.float32)
        # 0 in the gaps
        self._tokens = np.zeros((2, step, places, room), np.float32)
        self._no_statistics = np.empty((1, 1), np.float32)

    def move_to(self, number: int) -> None:
        """Become part ``number``."""
        layer, first = self._layer, number * self._layer.step
        self.number, self.first = number, first
        self.frames = slice(first, min(first + layer.step, layer.frames))
        self.size = self.frames.stop - first
        self._expand(layer.codes[self.frames], layer.format.planes, self._bytes)
        for kept, values in zip(self._tokens, (layer.sigma, layer.mu), strict=True):
            kept[: self.size, :, : layer.count] = values[self.frames]

    def rows(self) -> Array:
        """Products, or weights: a vector's with all tokens, ``[f, V, P room]``."""
        products = self._products[: self.size]
        return products.reshape(self.size, -1, self._layer.places * self._layer.room)

    def tokens(self) -> tuple[bool, Array, Array, int, int]:
        """What the compiled functions of klt_softmax.py want to know of the tokens."""
        layer = self._layer
        sigma, mu = self._tokens[:, : self.size].reshape(2, self.size, -1)
        return layer.normed, sigma, mu, layer.places, layer.count

    def score(self, vectors: tuple[Array, Array, Array]) -> None:
        """Products of all vectors with the rows; see ``float_products.score_frames``."""
        kernels_here().score_frames(
            *(self._codes[: self.size], self._layer.scale, self._layer.offset, vectors, self.first, np.float32(-1)),
            *(self._products[: self.size], self._totals[: self.size], self._no_statistics, self._no_statistics),
        )

    def sum(self, added: Array, sums: Array) -> None:
        """Sums of rows under the weights; see ``float_products.sum_frames``."""
        kernels_here().sum_frames(
            *(self._codes[: self.size], self._layer.scale, self._layer.offset, self._products[: self.size]),
            *(self._less[: self.size], added, sums),
        )


def kernels_here() -> ModuleType:
    """The module that multiplies bytes on this machine."""
    from mettle_cache.methods.kernels.cpu import float_products, integer_products

    return integer_products if has_byte_tiles() else float_products
