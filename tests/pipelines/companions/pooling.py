"""Pooling again, in numpy, cell by cell; and a store to pool."""

import numpy as np

from mettle_cache.methods.pooled import PooledLayer
from tests.pipelines.tiny_store import LAYERS, layer, write_tiny_store

# of a backbone with a class token, whose grid the coarser one does not divide
FLAT = layer("visual", 1, 1, (3, 3), 16)
FLAT = type(FLAT)(**{**vars(FLAT), "tokens": 10})
MIXED = (FLAT, *LAYERS[1:])


def pooled(spec, grid=(2, 2), how="mean"):
    return PooledLayer(layer=spec, grid=grid, how=how)


POOLED = (pooled(FLAT), pooled(FLAT, how="max"), pooled(LAYERS[3]), pooled(LAYERS[1], (1, 2)))


def pool(tokens, each):
    """``[T, N, D]`` decoded tokens to ``[T, n, D]``: torch's adaptive pooling, where cells may overlap."""
    (rows, columns), (n, m) = each.layer.grid, each.grid
    maps = np.asarray(tokens, np.float64)[:, -rows * columns :].reshape(len(tokens), rows, columns, -1)
    reduce = {"mean": np.mean, "max": np.max}[each.how]

    def span(place, of, size):
        return slice(place * size // of, -(-(place + 1) * size // of))

    cells = [
        reduce(maps[:, span(row, n, rows), span(column, m, columns)], axis=(1, 2))
        for row in range(n)
        for column in range(m)
    ]
    return np.stack(cells, axis=1)


def write_mixed_store(path, clips=4, **changes):
    return write_tiny_store(path, clips, 1, 1, layers=MIXED, **changes)
