"""A store small enough to train on in a second, in which events are there to be found."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.store.codecs import encode_layers, get_codec
from mettle_cache.tokens import LayerTokens, TokenBatch

CATEGORIES = ["Bark", "Flute", "Clock"]
SEGMENTS = 10


def layer(modality, stage, block, grid, width):
    return LayerSpec(modality=modality, stage=stage, block=block, grid=grid, tokens=grid[0] * grid[1], width=width)


LAYERS = (
    layer("visual", 1, 1, (3, 3), 16),
    layer("visual", 2, 1, (2, 2), 24),
    layer("visual", 2, 2, (2, 2), 24),
    layer("audio", 1, 1, (4, 2), 16),
    layer("audio", 2, 1, (2, 2), 16),
)


def make_samples(train, val, test, *, shared_clip=True):
    """Annotation rows; the first two share a clip, as 45 ids of AVE do."""
    rows = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for i in range(count):
            start = i % 4
            rows.append((f"{split}{i:03d}", split, CATEGORIES[i % 3], start, start + 2 + i % 5))
    if shared_clip and train > 1:
        rows[1] = (rows[0][0], "train", *rows[1][2:])
    columns = dict(zip(("clip", "split", "category", "start", "end"), zip(*rows, strict=True), strict=True))
    return pa.table({"row": list(range(len(rows))), **{name: list(values) for name, values in columns.items()}})


def clip_tokens(sample, index, layers=LAYERS):
    """Float tokens of a clip: a direction of the category, in the event's segments, on half of the tokens."""
    generator = torch.Generator().manual_seed(1000 + index)
    tokens = {}
    for number, spec in enumerate(layers):
        x = torch.randn(SEGMENTS, spec.tokens, spec.width, generator=generator)
        direction = torch.randn(len(CATEGORIES), spec.width, generator=torch.Generator().manual_seed(number))[
            CATEGORIES.index(sample["category"])
        ]
        x[sample["start"] : sample["end"], ::2] += 1.5 * direction
        tokens[spec.name] = x
    return tokens


@dataclass
class MemoryStore:
    """The part of ``TokenStore`` that training uses, in memory and with the codec's own encoder."""

    samples: pa.Table
    clips: tuple[str, ...]
    tokens: list[dict[str, LayerTokens]]
    layers: tuple[LayerSpec, ...] = LAYERS
    codec: str = "int8"
    dataset: str = "ave"
    segments: int = SEGMENTS
    path: Path = Path("memory.zarr")
    vocabulary: dict = field(default_factory=lambda: {"categories": CATEGORIES})
    key: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)

    @property
    def key_digest(self):
        return hashlib.blake2b(json.dumps([self.key, self.codec]).encode(), digest_size=16).hexdigest()

    def batches(self, order, *, layers=None, threads=3, depth=2, device="cpu"):
        for clips in order:
            parts = [self.tokens[clip] for clip in clips]
            yield TokenBatch({name: _stack([part[name] for part in parts]) for name in layers}, tuple(clips))


def _stack(parts):
    def stack(name):
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.stack(values)

    return LayerTokens(stack("codes"), stack("scale"), stack("zero"))


def tiny_store(train=24, val=9, test=12, *, codec="int8", samples=None, layers=LAYERS, **changes):
    samples = make_samples(train, val, test) if samples is None else samples
    first = {}
    for sample in samples.to_pylist():
        first.setdefault(sample["clip"], sample)
    tokens = [
        encode_layers(clip_tokens(sample, index, layers), get_codec(codec))
        for index, sample in enumerate(first.values())
    ]
    return MemoryStore(samples, tuple(first), tokens, layers=layers, codec=codec, **changes)
