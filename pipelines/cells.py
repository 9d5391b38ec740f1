"""Which layers a codec with cells encodes in squares of tokens: those that dense heads read.

The rule: the stages of which the data set's dense heads read a layer (``DatasetRow.dense``), as far as they are fine
(:func:`mettle_cache.layers.with_cells`). What it gives is in the layer table of the store, and so in its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from mettle_cache.datasets import DATASETS
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, select_layers, with_cells
from mettle_cache.store.format.codecs import Codec


def cells_for(codec: Codec, dataset: str, layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers as a store of this data set in this codec has them."""
    dense = DATASETS.row(dataset).dense if dataset in DATASETS else ""
    if not dense or not getattr(codec, "cells", False):
        return tuple(layers)
    read: set[str] = set()
    with suppress(UsageError):  # none of these layers is stored
        read = {layer.array for layer in select_layers(layers, dense)}
    fine = {layer.name: layer for layer in with_cells(layers)}
    return tuple(fine[layer.name] if layer.array in read else layer for layer in layers)
