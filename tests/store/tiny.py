"""A tiny store for tests: real layouts at toy sizes, tokens that follow from (clip, layer) alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import encode_layers, get_codec
from mettle_cache.store.format.layout import group_json
from mettle_cache.store.format.spec import StoreSpec, digest_of
from mettle_cache.store.writing.writer import StoreReport, StoreWriter
from mettle_cache.tokens import LayerTokens

CODECS = ("float16", "int8", "int4")
SEGMENTS = 2
LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=block, grid=(rows, rows), tokens=rows * rows, width=width)
    for modality, stage, blocks, rows, width in [
        ("visual", 1, 2, 3, 4),
        ("visual", 2, 3, 2, 8),
        ("audio", 1, 1, 2, 6),
    ]
    for block in range(1, blocks + 1)
)


def make_spec(codec: str = "int8", clips: int = 4, *, layers: Iterable[LayerSpec] = LAYERS, **fields) -> StoreSpec:
    ids = tuple(f"clip-{clip}" for clip in range(clips))
    samples = pa.table(
        {
            "row": list(range(clips + 1)),
            "clip": [*ids, ids[0]],
            "split": ["train"] * clips + ["val"],
            "category": ["Bark"] * (clips + 1),
        }
    )
    facts = {
        "dataset": "tiny",
        "segments": SEGMENTS,
        "layers": tuple(layers),
        "codec": codec,
        "clips": ids,
        "samples": samples,
        "vocabulary": {"categories": ["Bark", "Meow"]},
        "key": {"visual": {"weights": "abc", "size": 192}, "decode": {"fps": 1}},
        "provenance": {"command": "mettle extract --dataset tiny"},
        "clips_per_shard": 2,
    }
    return StoreSpec(**(facts | fields))


def raw_tokens(clip: int, layers: Iterable[LayerSpec] = LAYERS, segments: int = SEGMENTS) -> dict[str, torch.Tensor]:
    tokens = {}
    for layer in layers:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{clip} {layer.name}".encode()))
        tokens[layer.name] = torch.randn(segments, layer.tokens, layer.width, generator=generator) * 3 + 1
    return tokens


def clip_tokens(clip: int, codec: str = "int8", layers: Iterable[LayerSpec] = LAYERS) -> dict[str, LayerTokens]:
    return encode_layers(raw_tokens(clip, layers), get_codec(codec))


def source(clip: int) -> str:
    return f"{clip:032x}"


def write_store(path: Path, spec: StoreSpec | None = None, *, failed: Iterable[int] = ()) -> StoreReport:
    """An uninterrupted run."""
    spec = spec or make_spec()
    with StoreWriter.create_or_resume(path, spec) as writer:
        for clip in writer.pending():
            if clip in set(failed):
                writer.fail_clip(clip, "no such video", source(clip))
            else:
                writer.write_clip(clip, clip_tokens(clip, spec.codec, spec.layers), source=source(clip))
        return writer.finish()


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store and its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if not file.is_dir()}


def rewrite_metadata(path: Path, change: Callable[[dict], object]) -> None:
    """Change the root metadata and make every digest fit again: a forger's work, not an accident."""
    head = json.loads((path / "zarr.json").read_bytes())["attributes"]["mettle"]
    del head["digest"]
    change(head)
    head["key_digest"] = digest_of(head["key"])
    (path / "zarr.json").write_bytes(group_json({"mettle": {**head, "digest": digest_of(head)}}))
