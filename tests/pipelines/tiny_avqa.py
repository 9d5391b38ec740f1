"""A store of questions small enough to train on in seconds, in which answers can be seen or heard.

A video has an instrument, which is heard and seen at half of its positions in every second. Video ``00000003`` has the
fourth one of INSTRUMENTS.
"""

import pyarrow as pa
import torch

from mettle_cache.store import StoreSpec, StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers
from tests.pipelines.tiny_store import SEGMENTS, layer

INSTRUMENTS = ("tuba", "erhu", "drum", "bell")
LAYERS = (
    layer("visual", 1, 1, (3, 3), 16),
    layer("visual", 2, 1, (2, 2), 16),
    layer("audio", 1, 1, (2, 2), 8),
)
WORDS = ["<pad>", "What", "is", "it", "Is", "loud"]
LOUD = ("tuba", "drum")
ANSWERS = ["yes", "no", *INSTRUMENTS]


def questions(number, split):
    """Two questions about a video: which instrument it is, and whether that is one of two."""
    own = INSTRUMENTS[number % 4]
    clip = f"{'sa' if number % 7 == 6 else '00'}{number:06d}"
    return [
        (clip, split, "Visual", "Location", "What is it?", "What is it", own),
        (clip, split, "Audio", "Counting", "Is it loud?", "Is it loud", "yes" if own in LOUD else "no"),
    ]


def make_samples(train, val, test):
    rows, number = [], 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            rows += questions(number, split)
            number += 1
    names = ("clip", "split", "modality", "kind", "template", "question", "answer")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table({"row": list(range(len(rows))), **columns})


def clip_tokens(number):
    generator = torch.Generator().manual_seed(100 + number)
    tokens = {}
    for place, spec in enumerate(LAYERS):
        x = torch.randn(SEGMENTS, spec.tokens, spec.width, generator=generator)
        directions = torch.randn(len(INSTRUMENTS), spec.width, generator=torch.Generator().manual_seed(place))
        x[:, ::2] += 3 * directions[number % 4]
        tokens[spec.name] = x
    return tokens


def write_tiny_avqa(path, train=24, val=8, test=12, *, codec="int8", dataset="music-avqa", failed=()):
    """Write a finished store and open it; ``failed`` are clips without tokens."""
    samples = make_samples(train, val, test)
    clips = tuple(dict.fromkeys(samples["clip"].to_pylist()))
    spec = StoreSpec(
        dataset=dataset,
        segments=SEGMENTS,
        layers=LAYERS,
        codec=codec,
        clips=clips,
        samples=samples,
        vocabulary={"words": WORDS, "answers": ANSWERS, "release": ["json_update"]},
    )
    with StoreWriter.create_or_resume(path, spec) as writer:
        for index, clip in enumerate(clips):
            if clip in failed:
                writer.fail_clip(index, "no media")
            else:
                tokens = encode_layers(clip_tokens(int(clip[2:])), get_codec(codec))
                writer.write_clip(index, tokens, source=f"{index:032x}")
        writer.finish()
    return TokenStore.open(path)
