"""Stores for benches, without a backbone: plausible tokens (layer_tokens.py), written by the real writer.

One clip is encoded, and the others are its rows of codes in another order, so every clip has its own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_clip, bench_static, reorder_tokens
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import bytes_per_clip, static_layout
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.writing.writer import StoreWriter

CATEGORIES = tuple(f"category {number:02d}" for number in range(28))


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """What a bench store holds beside tokens: clips of ``segments`` segments each, their samples, and their words."""

    dataset: str
    clips: tuple[str, ...]
    samples: pa.Table
    vocabulary: Mapping[str, Sequence[str]]
    segments: int = SEGMENTS


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
