"""What layers cost in each codec: bytes, files, and whether a disk has room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.datasets import Dataset
from mettle_cache.layers import LayerSpec, group_by_array, select_layers
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.room import ROOM_MARGIN
from mettle_cache.store.format.codecs import CODECS, get_codec
from mettle_cache.store.format.digests import CRC_BYTES
from mettle_cache.store.format.layout import (
    RECORDS,
    bytes_per_clip,
    default_clips_per_shard,
    shard_files,
    static_layout,
)

LAYER_SETS = ("all", "stages")


@dataclass(frozen=True, kw_only=True)
class Bill:
    """The cost of some layers with one codec. ``reads_per_second`` is clips/s from this disk, None if not measured.

    ``static_bytes`` are those of the codec's static arrays, which are once in the store; ``nbytes`` counts them, too.
    """

    layers: str
    codec: str
    clip_bytes: int
    static_bytes: int
    nbytes: int
    files: int
    fits: bool
    reads_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class StageBill:
    """Bytes of one stage of one clip, by codec."""

    array: str
    layers: int
    tokens: int
    width: int
    clip_bytes: dict[str, int]


def usual_bills(
    config: ExtractConfig,
    dataset: Dataset,
    taken: Sequence[int],
    layers: Sequence[LayerSpec],
    *,
    free: int,
    speed: float | None,
) -> tuple[Bill, ...]:
    """The usual sets of layers and the chosen one, each in every codec."""
    return tuple(
        layer_bill(
            *(select_layers(layers, selection), selection, codec),
            dataset=dataset.name,
            clips=len(dataset.clips),
            taken=taken,
            segments=dataset.segments,
            clips_per_shard=config.clips_per_shard,
            free=free,
            speed=speed,
        )
        for selection in dict.fromkeys((*LAYER_SETS, config.layer_selection))
        for codec in CODECS.names()
    )


def layer_bill(
    layers: Sequence[LayerSpec],
    chosen: str,
    codec: str,
    *,
    dataset: str,
    clips: int,
    taken: Sequence[int],
    segments: int,
    clips_per_shard: int | None,
    free: int,
    speed: float | None,
) -> Bill:
    """The cost of layers, which the selection ``chosen`` names, of the clips ``taken`` of so many, by their indexes.

    ``free`` are bytes of the disk, ``speed`` bytes/s that it reads, None if not measured.
    """
    layers = cells_for(get_codec(codec), dataset, layers)
    stored = (layers, segments, get_codec(codec))
    sizes = bytes_per_clip(*stored)
    records = sizes.pop(RECORDS)
    each = clips_per_shard or default_clips_per_shard(*stored, clips)
    clip_bytes = sum(sizes.values())
    static = [array.nbytes + CRC_BYTES for array in static_layout(*stored)]
    return Bill(
        layers=chosen,
        codec=codec,
        clip_bytes=clip_bytes,
        static_bytes=sum(static),
        nbytes=len(taken) * clip_bytes + sum(static),
        files=shard_files(*stored, clips=clips, clips_each=each, written=taken) + len(static),
        fits=(len(taken) * clip_bytes + clips * records + sum(static)) * ROOM_MARGIN <= free,
        reads_per_second=speed / clip_bytes if speed else None,
    )


def stage_bills(layers: Sequence[LayerSpec], dataset: Dataset) -> tuple[StageBill, ...]:
    """Bytes of a clip by stage, in every codec."""
    bills: dict[str, dict[str, int]] = {}
    for codec in map(get_codec, CODECS.names()):
        for array, members in group_by_array(cells_for(codec, dataset.name, layers)).items():
            sizes = bytes_per_clip(members, dataset.segments, codec)
            bills.setdefault(array, {})[codec.name] = sum(sizes.values()) - sizes[RECORDS]
    first = {array: (members[0], len(members)) for array, members in group_by_array(layers).items()}
    return tuple(
        StageBill(array=array, layers=count, tokens=layer.tokens, width=layer.width, clip_bytes=bills[array])
        for array, (layer, count) in first.items()
    )
