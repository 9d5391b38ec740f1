"""Stores of every format version that was ever released are read for ever.

Each folder of ``golden`` was made once by :func:`make_golden`, with codes, scales and zeros that follow a formula, so
that neither the encoder nor the writer of today is the oracle.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.errors import StoreError, StoreKeyError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import repair_store, verify_store
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens
from tests.store.tiny import CODECS, contents

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = (1, 2)
LAYERS = (
    LayerSpec(modality="visual", stage=1, block=1, grid=(2, 2), tokens=5, width=6),
    LayerSpec(modality="visual", stage=1, block=2, grid=(2, 2), tokens=5, width=6),
    LayerSpec(modality="audio", stage=2, block=1, grid=(1, 3), tokens=3, width=4),
)
CLIPS = ("-a_B9", "musée", "lost")
# a shard of two clips, and one in which one of two has failed
MORE = (*CLIPS, "zoo")
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


def golden_spec(codec, clips=CLIPS):
    return StoreSpec(
        dataset="golden",
        segments=SEGMENTS,
        layers=LAYERS,
        codec=codec,
        clips=clips,
        clips_per_shard=2,
        samples=pa.table({"row": [0, 1, 2], "clip": [CLIPS[1], CLIPS[0], CLIPS[1]], "split": ["train", "test", "val"]}),
        vocabulary={"categories": ["Bark", "Église"]},
        key={"visual": {"weights": "0123", "mean": [0.485, 0.456, 0.406]}},
        provenance={"command": "mettle extract"},
    )


def make_golden(path, codec):
    """Run once a format version, never again: what is committed is the specification."""
    with StoreWriter.create_or_resume(path, golden_spec(codec, MORE)) as writer:
        writer.pending()
        for clip in (0, 1, 3):
            writer.write_clip(clip, golden_tokens(codec, clip), source=f"{clip:032x}")
        writer.fail_clip(2, "cannot be decoded", None)
        writer.finish()


@pytest.fixture(params=CODECS)
def codec(request):
    return request.param


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read(codec, version):
    clips = CLIPS if version == 1 else MORE
    with TokenStore.open(GOLDEN / f"v{version}" / f"{codec}.zarr", check="always") as store:
        assert (store.dataset, store.codec, store.segments) == ("golden", codec, SEGMENTS)
        assert store.key["format"] == version
        assert store.clips == clips
        assert store.layers == LAYERS
        assert store.failed == {"lost": "cannot be decoded"}
        assert store.vocabulary == {"categories": ["Bark", "Église"]}
        assert store.samples.to_pylist() == golden_spec(codec).samples.to_pylist()
        batch = store.read([clip for clip in (3, 1, 0) if clip < len(clips)])
    for slot, clip in enumerate(batch.clips):
        for name, expected in golden_tokens(codec, clip).items():
            for part in ("codes", "scale", "zero"):
                if getattr(expected, part) is not None:
                    assert torch.equal(getattr(batch.layers[name], part)[slot], getattr(expected, part))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_verifies(codec, version):
    assert verify_store(GOLDEN / f"v{version}" / f"{codec}.zarr", deep=True).ok


def test_today_s_writer_writes_version_2(tmp_path, codec):
    make_golden(tmp_path / "s.zarr", codec)
    old, new = contents(GOLDEN / "v2" / f"{codec}.zarr"), contents(tmp_path / "s.zarr")
    assert old.keys() == new.keys()
    # pyarrow puts its own version into Parquet files, and the records hold their digests
    by_pyarrow = {"manifest.parquet", "samples.parquet", "zarr.json", "READY"}
    assert {name for name in old if old[name] != new[name]} <= by_pyarrow


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["visual/s1/c.1.0.0.0.0", "audio/s2_zero/c.0.0.0.0", "commits/00000001.json", "READY"])
def test_damage_to_a_store_of_version_1_is_named_but_not_repaired(tmp_path, file):
    path = shutil.copytree(GOLDEN / "v1" / "int8.zarr", tmp_path / "s.zarr")
    flip(path / file)
    before = contents(path)
    report = verify_store(path, deep=True)
    assert any(file in str(problem) for problem in report.problems)
    with pytest.raises(StoreError, match="has store format 1: it can be read, trained from and verified") as caught:
        repair_store(report)
    assert "mettle recode" in caught.value.hint
    assert contents(path) == before


# int4 has another version since
@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_a_finished_store_of_version_1_is_left_as_it_is(tmp_path, codec):
    path = shutil.copytree(GOLDEN / "v1" / f"{codec}.zarr", tmp_path / "s.zarr")
    before = contents(path)
    with StoreWriter.create_or_resume(path, golden_spec(codec)) as writer:
        assert writer.pending(retry_failed=False) == []
        report = writer.finish()
        assert (report.clips, report.failed, report.pending) == (2, 1, 0)
        with pytest.raises(StoreError, match="this version writes format 2 only"):
            writer.pending()  # the clip that failed would be tried again
        with pytest.raises(StoreError, match="this version writes format 2 only"):
            writer.write_clip(2, golden_tokens(codec, 2), source="")
        with pytest.raises(StoreError, match="this version writes format 2 only"):
            writer.forget({0: f"{0:032x}"})
    with pytest.raises(StoreKeyError, match=r"segments: 2 -> 3"):
        StoreWriter.create_or_resume(path, replace(golden_spec(codec), segments=3))
    assert contents(path) == before


def test_an_unfinished_store_of_version_1_is_refused_with_what_begins_anew(tmp_path):
    path = shutil.copytree(GOLDEN / "v1" / "int8.zarr", tmp_path / "s.zarr")
    (path / "READY").unlink()
    before = contents(path)
    with pytest.raises(StoreError, match="is an unfinished store of format 1") as caught:
        StoreWriter.create_or_resume(path, golden_spec("int8"))
    assert "another --out" in caught.value.hint
    assert contents(path) == before
