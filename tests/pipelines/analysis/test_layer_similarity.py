"""Cosines of consecutive layers: against all of a store's tokens at once, and where there is nothing to compare."""

import json

import numpy as np
import pytest
import torch

from mettle_cache.cli.analyse import similarity_lines
from mettle_cache.errors import StoreMissingError, UsageError
from mettle_cache.pipelines.analysis import layer_similarity as module
from mettle_cache.pipelines.analysis.layer_similarity import layer_similarity
from tests.pipelines.tiny_store import LAYERS, layer

DEEP = (
    *(layer("visual", 1, block, (3, 3), 16) for block in (1, 2, 3)),
    layer("visual", 2, 2, (2, 2), 24),
    layer("audio", 1, 1, (4, 2), 16),
    layer("audio", 2, 1, (2, 2), 16),
    layer("audio", 2, 2, (2, 2), 16),
)


def plain_cosines(store, before, after, clips):
    tokens = store.read(clips, [before, after]).layers
    a, b = (tokens[name].floats(torch.float64).numpy() for name in (before, after))
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).ravel()


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_every_token_of_every_clip_counts_once(tiny_store, codec):
    store = tiny_store(5, 2, 2, layers=DEEP, codec=codec)
    report = layer_similarity(store)
    assert report.clips == len(store) == 8
    found = {row.layer: row for row in report.layers}
    for before, after in (("s1b01", "s1b02"), ("s1b02", "s1b03")):
        expected = plain_cosines(store, f"visual/{before}", f"visual/{after}", list(store))
        row = found[f"visual/{after}"]
        assert (row.mean, row.std) == pytest.approx((expected.mean(), expected.std()), abs=1e-6)
        low, high = np.quantile(expected, (0.1, 0.9), method="inverted_cdf")
        assert (row.low, row.high) == pytest.approx((low, high), abs=6e-4)
        assert report.tokens[f"visual/{after}"] == expected.size == 8 * 10 * 9
    assert {row.layer: row.reason for row in report.layers if row.mean is None} == {
        "visual/s1b01": "its input is the patch embedding, which is not stored",
        "visual/s2b02": "the block before it, visual/s2b01, is not stored",
        "audio/s1b01": "its input is the patch embedding, which is not stored",
        "audio/s2b01": "its input comes from a patch merging, of another grid and width",
    }
    assert report.notes == ([] if codec == "float16" else ["of tokens as int8 keeps them"])


def test_arrays_json_and_lines(tiny_store):
    report = layer_similarity(tiny_store(5, 2, 2, layers=DEEP), clips=3)
    array = report.array("audio")
    assert array.shape == (3, 4)
    assert np.isnan(array[:2]).all()
    assert array[2, 0] == report.layers[-1].mean
    assert json.loads(json.dumps(report.to_json()))["layers"][0]["reason"].startswith("its input is the patch")
    lines = similarity_lines(report)
    assert lines[0].split() == ["layer", "mean", "std", "10", "%", "90", "%"]
    assert "without    visual/s1b01: its input is the patch embedding, which is not stored" in lines
    assert "clips      3, every token of every segment" in lines


def test_some_clips_lie_evenly_over_those_that_have_tokens(tiny_store, monkeypatch):
    store = tiny_store(5, 2, 2, layers=DEEP, failed={"train000": "gone"})
    read = []
    batches = type(store).batches
    monkeypatch.setattr(
        type(store), "batches", lambda self, order, **given: read.append(order) or batches(self, order, **given)
    )
    layer_similarity(store, clips=3)
    assert read == [[[1], [4], [7]]]
    report = layer_similarity(store, clips=100)
    assert report.clips == 7
    expected = plain_cosines(store, "audio/s2b01", "audio/s2b02", [clip for clip in store if clip != "train000"])
    assert report.layers[-1].mean == pytest.approx(expected.mean(), abs=1e-6)


def test_the_final_norm_is_said(tiny_store):
    key = {"backbones": {"visual": {"final_norm": True}, "audio": {"final_norm": False}}}
    store = tiny_store(2, 1, 1, layers=DEEP, codec="float16", key=key)
    assert layer_similarity(store, clips=1).notes == [
        "visual: the last layer is stored after the final norm, its input before it"
    ]


def test_a_stored_patch_embedding_is_the_first_block_s_input():
    embedding, first = (layer("visual", 1, block, (3, 3), 16) for block in (0, 1))
    assert module._input_of(first, (embedding, first)) == embedding
    assert module._input_of(embedding, (embedding, first)) == "it is the patch embedding"


def test_quantiles_of_a_histogram_are_those_of_the_values():
    values = np.random.default_rng(0).uniform(-1, 1, 20_000)
    counts = module._Cosines()
    for part in np.split(values, 4):
        counts.add(part)
    for share in (0.1, 0.5, 0.9):
        assert counts.quantile(share) == pytest.approx(np.quantile(values, share), abs=1e-3)


def test_what_there_is_nothing_to_compare_in(tiny_store, tmp_path):
    stages = [spec for spec in LAYERS if spec.name != "visual/s2b01"]
    with pytest.raises(
        UsageError, match=r"no two layers of one stage follow each other.*\n  next: extract with --layers all"
    ):
        layer_similarity(tiny_store(2, 1, 1, layers=tuple(stages)))
    with pytest.raises(StoreMissingError):
        layer_similarity(tmp_path / "none.zarr")
    gone = {f"{split}000": "gone" for split in ("train", "val", "test")}
    with pytest.raises(UsageError, match=r"no clips with tokens to read\n  next: see: mettle info"):
        layer_similarity(tiny_store(1, 1, 1, layers=DEEP, failed=gone))
