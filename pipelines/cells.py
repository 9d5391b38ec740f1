"""Which layers a codec with cells encodes in squares of tokens: those that dense heads read.

The rule: 2 x 2 tokens in every stage of which the data set's dense heads read a layer (``DatasetRow.dense``), where
both sides of the grid are even and every token has a place in it. What it gives is in the layer table of the store, and
so in its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from mettle_cache.datasets import DATASETS
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.store.format.codecs import Codec

SIDE = 2


def cells_for(codec: Codec, dataset: str, layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers as a store of this data set in this codec has them."""
    dense = DATASETS.row(dataset).dense if dataset in DATASETS else ""
    if not dense or not getattr(codec, "cells", False):
        return tuple(layers)
    read: set[str] = set()
    with suppress(UsageError):  # none of these layers is stored
        read = {layer.array for layer in select_layers(layers, dense)}
    return tuple(replace(layer, cell=SIDE) if layer.array in read and _divides(layer) else layer for layer in layers)


def _divides(layer: LayerSpec) -> bool:
    rows, columns = layer.grid
    return rows % SIDE == columns % SIDE == 0 and rows * columns == layer.tokens
