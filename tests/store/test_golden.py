"""Stores of every format version that was ever released are read for ever.

``golden/v1`` was made once by :func:`make_golden`, with codes, scales and zeros that follow a formula, so that neither
the encoder nor the writer of today is the oracle.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens
from tests.store.tiny import CODECS, contents

GOLDEN = Path(__file__).parent / "golden" / "v1"
LAYERS = (
    LayerSpec(modality="visual", stage=1, block=1, grid=(2, 2), tokens=5, width=6),
    LayerSpec(modality="visual", stage=1, block=2, grid=(2, 2), tokens=5, width=6),
    LayerSpec(modality="audio", stage=2, block=1, grid=(1, 3), tokens=3, width=4),
)
CLIPS = ("-a_B9", "musée", "lost")
SEGMENTS = 2


def ramp(clip, number, *shape):
    return (np.arange(np.prod(shape)).reshape(shape) * 7 + clip * 31 + number * 13) % 251


def golden_tokens(codec, clip):
    tokens = {}
    for number, layer in enumerate(LAYERS):
        values = ramp(clip, number, SEGMENTS, layer.tokens, layer.width // (2 if codec == "int4" else 1))
        scale = 2.0 ** -(ramp(clip, number, SEGMENTS, layer.width) % 9)
        zero = ramp(clip, number, SEGMENTS, layer.width) * 0.5 - 60
        halves = {n: torch.from_numpy(a.astype(np.float16)) for n, a in (("scale", scale), ("zero", zero))}
        if codec == "float16":
            tokens[layer.name] = LayerTokens(torch.from_numpy((values / 8).astype(np.float16)), FLOATS)
        elif codec == "int8":
            tokens[layer.name] = LayerTokens(torch.from_numpy((values - 125).astype(np.int8)), INT8, halves)
        else:
            tokens[layer.name] = LayerTokens(torch.from_numpy(values.astype(np.uint8)), INT4, halves)
    return tokens


def golden_spec(codec):
    return StoreSpec(
        dataset="golden",
        segments=SEGMENTS,
        layers=LAYERS,
        codec=codec,
        clips=CLIPS,
        samples=pa.table({"row": [0, 1, 2], "clip": [CLIPS[1], CLIPS[0], CLIPS[1]], "split": ["train", "test", "val"]}),
        vocabulary={"categories": ["Bark", "Église"]},
        key={"visual": {"weights": "0123", "mean": [0.485, 0.456, 0.406]}},
        provenance={"command": "mettle extract"},
    )


def make_golden(path, codec):
    """Run once a format version, never again: what is committed is the specification."""
    with StoreWriter.create_or_resume(path, golden_spec(codec)) as writer:
        writer.pending()
        for clip in (0, 1):
            writer.write_clip(clip, golden_tokens(codec, clip), source=f"{clip:032x}")
        writer.fail_clip(2, "cannot be decoded", None)
        writer.finish()


@pytest.mark.parametrize("codec", CODECS)
def test_version_1_is_read(codec):
    with TokenStore.open(GOLDEN / f"{codec}.zarr", check="always") as store:
        assert (store.dataset, store.codec, store.segments) == ("golden", codec, SEGMENTS)
        assert store.clips == CLIPS
        assert store.layers == LAYERS
        assert store.failed == {"lost": "cannot be decoded"}
        assert store.vocabulary == {"categories": ["Bark", "Église"]}
        assert store.samples.to_pylist() == golden_spec(codec).samples.to_pylist()
        batch = store.read([1, 0])
    for slot, clip in enumerate(batch.clips):
        for name, expected in golden_tokens(codec, clip).items():
            for part in ("codes", "scale", "zero"):
                if getattr(expected, part) is not None:
                    assert torch.equal(getattr(batch.layers[name], part)[slot], getattr(expected, part))


@pytest.mark.parametrize("codec", CODECS)
def test_version_1_verifies(codec):
    assert verify_store(GOLDEN / f"{codec}.zarr", deep=True).ok


# int4 has another version since
@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_today_s_writer_writes_version_1(tmp_path, codec):
    make_golden(tmp_path / "s.zarr", codec)
    old, new = contents(GOLDEN / f"{codec}.zarr"), contents(tmp_path / "s.zarr")
    assert old.keys() == new.keys()
    # pyarrow puts its own version into Parquet files, and the records hold their digests
    by_pyarrow = {"manifest.parquet", "samples.parquet", "zarr.json", "READY"}
    assert {name for name in old if old[name] != new[name]} <= by_pyarrow
