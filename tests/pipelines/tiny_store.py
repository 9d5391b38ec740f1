"""A store small enough to train on in a second, in which events are there to be found."""

import pyarrow as pa
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.store import StoreSpec, StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers

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


def write_tiny_store(
    path, train=24, val=9, test=12, *, codec="int8", samples=None, layers=LAYERS, dataset="ave", key=None, failed=None
):
    """Write a finished store and open it; ``failed`` are clips without tokens, with the reason."""
    samples = make_samples(train, val, test) if samples is None else samples
    first = {}
    for sample in samples.to_pylist():
        first.setdefault(sample["clip"], sample)
    spec = StoreSpec(
        dataset=dataset,
        segments=SEGMENTS,
        layers=layers,
        codec=codec,
        clips=tuple(first),
        samples=samples,
        vocabulary={"categories": CATEGORIES},
        key=key or {},
    )
    with StoreWriter.create_or_resume(path, spec) as writer:
        for index, sample in enumerate(first.values()):
            if sample["clip"] in (failed or {}):
                writer.fail_clip(index, failed[sample["clip"]])
            else:
                tokens = encode_layers(clip_tokens(sample, index, layers), get_codec(codec))
                writer.write_clip(index, tokens, source=f"{index:032x}")
        writer.finish()
    return TokenStore.open(path)
