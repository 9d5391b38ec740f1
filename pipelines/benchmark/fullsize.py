"""Stores for benches: the layer tables of Swin-V2-L and HTS-AT, and plausible tokens for them, without a backbone.

The tokens have a stated spectrum (:mod:`mettle_cache.pipelines.benchmark.spectral`), are encoded by the real codecs and
written by the real writer; one clip is encoded, and the others are its rows of codes in another order, so every clip
has its own bytes. A codec's pilot looks at one block of each stage, because blocks of a stage are alike here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch

from mettle_cache.backbones import layer_table
from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.pipelines.benchmark.spectral import spectral_tokens
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.store.format.codecs import NO_STATIC, StaticArrays, encode_layers, get_codec
from mettle_cache.store.format.layout import bytes_per_clip, static_layout
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import LayerTokens

SEGMENTS = 10
# frames that a pilot looks at: so many rows, tokens or cells of them, for each of a stage's components
_ROWS_A_COMPONENT, _LEAST_FRAMES, _MOST_FRAMES = 6, 8, 200
_PILOT_SEED = 1
CATEGORIES = tuple(f"category {number:02d}" for number in range(28))
_TINY_STAGES = (
    ("visual", 2, (4, 4), 16),
    ("visual", 3, (2, 2), 32),
    ("audio", 2, (4, 2), 16),
    ("audio", 1, (2, 2), 32),
)


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """What a bench store holds beside tokens: clips of ``segments`` segments each, their samples, and their words."""

    dataset: str
    clips: tuple[str, ...]
    samples: pa.Table
    vocabulary: Mapping[str, Sequence[str]]
    segments: int = SEGMENTS


def bench_layers(*, tiny: bool = False) -> tuple[LayerSpec, ...]:
    """All blocks of Swin-V2-L at 192 pixels (24) and HTS-AT (12); ``tiny``: eight layers of toy size."""
    if not tiny:
        return (*layer_table("swinv2_l", "visual"), *layer_table("htsat", "audio"))
    layers: list[LayerSpec] = []
    for modality, blocks, grid, width in _TINY_STAGES:
        stage = 1 + len({layer.stage for layer in layers if layer.modality == modality})
        layers += [
            LayerSpec(modality=modality, stage=stage, block=block, grid=grid, tokens=grid[0] * grid[1], width=width)
            for block in range(1, blocks + 1)
        ]
    return tuple(layers)


def store_bytes(layers: Sequence[LayerSpec], codec: str, clips: int, *, segments: int = SEGMENTS) -> int:
    """What :func:`write_bench_store` will write, at most."""
    static = sum(array.nbytes for array in static_layout(layers, segments, get_codec(codec)))
    return static + clips * sum(bytes_per_clip(layers, segments, get_codec(codec)).values())


def write_bench_store(
    path: Path, layers: Sequence[LayerSpec], *, codec: str, clips: int, progress: Progress | None = None
) -> None:
    """Write a finished store of ``clips`` clips of AVE's form: ten segments, an event in each, 28 categories."""
    write_data_store(path, layers, codec=codec, data=ave_data(clips), progress=progress)


def write_data_store(
    path: Path, layers: Sequence[LayerSpec], *, codec: str, data: BenchData, progress: Progress | None = None
) -> None:
    """Write a finished store of other data; see :func:`write_bench_store`. A clip has ten segments at most."""
    progress = progress or Silent()
    one = {name: tokens[: data.segments] for name, tokens in bench_clip(layers, codec).items()}
    progress.start(len(data.clips), "clips", f"write a store in {codec}")
    with StoreWriter.create_or_resume(path, _spec(layers, codec, data)) as writer:
        for clip in writer.pending():
            nbytes = writer.write_clip(clip, reorder_tokens(one, clip), source=f"{clip:032x}")
            progress.advance(nbytes=nbytes)
        writer.finish()
    progress.finish()


def bench_clip(layers: Sequence[LayerSpec], codec: str, *, seed: int = 0) -> dict[str, LayerTokens]:
    """One clip's codes by layer, ``[T, N, *]``."""
    generator = torch.Generator().manual_seed(seed)
    static = bench_static(tuple(layers), codec)
    encoded: dict[str, LayerTokens] = {}
    for layer in layers:
        x = spectral_tokens(layer, SEGMENTS, generator)
        encoded |= encode_layers({layer.name: x}, get_codec(codec), [layer], static)
    return encoded


@lru_cache(maxsize=4)
def bench_static(layers: tuple[LayerSpec, ...], codec: str) -> StaticArrays:
    """The codec's static arrays from a pilot on frames of other clips; none for a codec without."""
    stages = group_by_array(layers)
    pilot = get_codec(codec).pilot([members[0] for members in stages.values()])
    if pilot is None:
        return NO_STATIC
    generator = torch.Generator().manual_seed(_PILOT_SEED)
    for first, *_ in stages.values():
        wanted = math.ceil(_ROWS_A_COMPONENT * first.width * first.cell**4 / first.tokens)
        for _ in range(max(_LEAST_FRAMES, min(wanted, _MOST_FRAMES))):
            pilot.add({first.name: spectral_tokens(first, 1, generator)})
    arrays = pilot.finish()
    return {layer.name: arrays[members[0].name] for members in stages.values() for layer in members}


def reorder_tokens(clip: dict[str, LayerTokens], by: int) -> dict[str, LayerTokens]:
    """The same codes in another order of tokens within each segment: what belongs to channels and frames stays."""
    return {name: replace(tokens, codes=tokens.codes.roll(by, dims=-2)) for name, tokens in clip.items()}


def ave_data(clips: int) -> BenchData:
    """Clips of AVE's form, with a sample each."""
    return BenchData(
        dataset="ave",
        clips=clip_ids(clips),
        samples=bench_samples(clips),
        vocabulary={"categories": CATEGORIES},
    )


def bench_samples(clips: int) -> pa.Table:
    """Annotations of AVE's form, one a clip: an event of two seconds, the categories in turn."""
    starts = [clip % (SEGMENTS - 2) for clip in range(clips)]
    return pa.table(
        {
            "row": list(range(clips)),
            "clip": list(clip_ids(clips)),
            "split": bench_splits(clips),
            "category": [CATEGORIES[clip % len(CATEGORIES)] for clip in range(clips)],
            "start": starts,
            "end": [start + 2 for start in starts],
        }
    )


def bench_splits(samples: int) -> list[str]:
    """A bench trains on all of it; one sample is held out where there are two, because a task wants some."""
    return ["val" if samples > 1 and sample == samples - 1 else "train" for sample in range(samples)]


def clip_ids(clips: int) -> tuple[str, ...]:
    """Names that no data set has."""
    return tuple(f"bench-{clip:05d}" for clip in range(clips))


def _spec(layers: Sequence[LayerSpec], codec: str, data: BenchData) -> StoreSpec:
    return StoreSpec(
        dataset=data.dataset,
        segments=data.segments,
        layers=tuple(layers),
        codec=codec,
        clips=data.clips,
        samples=data.samples,
        vocabulary=data.vocabulary,
        key={"bench": "tokens of a stated spectrum"},
        provenance={"command": "mettle bench"},
        static=bench_static(tuple(layers), codec),
    )
