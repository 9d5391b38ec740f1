"""Stored arrays of a layer as its tokens: with their format, and with the codec's static arrays on the same device."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from torch import Tensor, device

from mettle_cache.store.format.codecs import CODES, StaticArrays
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.tokens import LayerTokens, TokenFormat


class Assembler:
    """Makes tokens of one store. Safe to use from several threads."""

    def __init__(self, metadata: StoreMetadata) -> None:
        self._metadata = metadata
        self._formats: dict[str, TokenFormat] = {}
        self._static: dict[device, StaticArrays] = {}
        self._lock = threading.Lock()

    def tokens(self, layer: str, arrays: Mapping[str, Tensor]) -> LayerTokens:
        """A layer's tokens from what is stored of each clip."""
        codes = arrays[CODES]
        parts = {part: array for part, array in arrays.items() if part != CODES}
        static = self.static(codes.device).get(layer, {})
        if layer not in self._formats:
            spec = next(spec for spec in self._metadata.layers if spec.name == layer)
            self._formats[layer] = self._metadata.codec.format(spec, static)
        return LayerTokens(codes, self._formats[layer], parts, static)

    def static(self, place: device) -> StaticArrays:
        """The codec's static arrays, read once and copied to each device once.

        Raises
        ------
        StoreCorruptError
            They are damaged.
        """
        static = self._static.get(place)
        if static is None:
            # all batches have the same tensors, whichever thread is the first to ask
            with self._lock:
                static = self._static.get(place)
                if static is None:
                    static = self._static[place] = {
                        layer: {part: array.to(place) for part, array in arrays.items()}
                        for layer, arrays in self._metadata.read_static().items()
                    }
        return static
