"""Which pooled layers lie together in one companion, what it is called, and what it takes.

A companion is a store of its own in float16: the layers of one pooling and one grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import PooledLayer, Pooling
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.digests import digest_of
from mettle_cache.store.format.layout import clip_layout

POOLED_CODEC = "float16"
_DIGITS = 8


@dataclass(frozen=True)
class PooledTable:
    """The layers of one companion: all of one pooling and one grid, in the order of the store's layers."""

    pooled: tuple[PooledLayer, ...]

    @property
    def how(self) -> Pooling:
        return self.pooled[0].how

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pooled[0].grid

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The companion's own layers: the names of the store's, on the coarser grid, without class tokens."""
        return tuple(replace(each.layer, grid=each.grid, tokens=each.count, cell=1) for each in self.pooled)

    @property
    def stem(self) -> str:
        """For example ``pooled-mean-6x6``: how the names of all companions of this pooling and grid begin."""
        return f"pooled-{self.how}-{self.grid[0]}x{self.grid[1]}"

    @property
    def name(self) -> str:
        """The companion's folder: the stem, and eight digits that tell which layers it has."""
        return f"{self.stem}-{digest_of([layer.name for layer in self.layers])[:_DIGITS]}"

    def clip_bytes(self, segments: int) -> int:
        """Bytes of one clip, with their checksums."""
        return sum(array.clip_bytes for array in clip_layout(self.layers, segments, get_codec(POOLED_CODEC)))


def pooled_tables(layers: Sequence[LayerSpec], pooled: Iterable[PooledLayer]) -> tuple[PooledTable, ...]:
    """The companions that hold ``pooled``, whatever their order and however often one is named.

    Left out are layers that are none of ``layers``, those of a store; those that are on the grid already; and those of
    which two grids are wanted of one pooling, because a batch has one name for both.
    """
    grids: dict[str, set[tuple[int, int]]] = {}
    wanted: dict[tuple[Pooling, tuple[int, int]], dict[str, PooledLayer]] = {}
    for each in pooled:
        grids.setdefault(each.name, set()).add(each.grid)
        wanted.setdefault((each.how, each.grid), {})[each.layer.name] = each
    tables = []
    for key in sorted(wanted):
        members = [wanted[key][layer.name] for layer in layers if layer.name in wanted[key]]
        members = [each for each in members if each.grid != each.layer.grid and len(grids[each.name]) == 1]
        if members:
            tables.append(PooledTable(tuple(members)))
    return tuple(tables)


def companion_bytes(layers: Sequence[LayerSpec], pooled: Iterable[PooledLayer], segments: int, clips: int) -> int:
    """Bytes that the companions of a store with ``layers`` take for a head that reads ``pooled``.

    Of the tokens and their checksums; records and indexes add some kilobytes a clip.
    """
    return clips * sum(table.clip_bytes(segments) for table in pooled_tables(layers, pooled))
