"""A codec's pilot in an extraction: run once, and taken from the store afterwards."""

from dataclasses import replace

import pytest
import torch

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.extractor import build_extractor
from mettle_cache.pipelines.extract.pilot import with_static_arrays
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.store import TokenStore, verify_store
from mettle_cache.store.format.codecs import CODECS
from tests.pipelines.extraction import tiny, tree, write_clips
from tests.store import toy_codecs


@pytest.fixture(scope="module", autouse=True)
def installed():
    CODECS.register(toy_codecs.SIX)
    yield
    CODECS.unregister("six")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("pilot") / "AVE", train=2)


def test_an_extraction_runs_the_pilot_once_and_resumes_without_it(root, tmp_path, monkeypatch):
    whole = tmp_path / "whole.zarr"
    assert extract(tiny(root, whole, codec="six", layers="stages")).ok
    assert verify_store(whole, deep=True).ok

    stopped = tmp_path / "stopped.zarr"
    extract(tiny(root, stopped, codec="six", layers="stages", part=(1, 2)))
    monkeypatch.setattr(toy_codecs.SixBitPilot, "add", lambda *_: pytest.fail("a second pilot"))
    assert extract(tiny(root, stopped, codec="six", layers="stages")).ok
    assert tree(stopped) == tree(whole)


def test_the_static_arrays_are_what_the_pilot_makes_of_the_backbones_tokens(root, tmp_path):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, open_dataset("ave", root))
    pilot = extractor.codec.pilot(extractor.layers)
    for index in range(3):
        pilot.add({name: x[:2] for name, x in extractor.clip_tokens(extractor.prepare(index)).items()})
    static = with_static_arrays(extractor, config.out).static
    for layer, arrays in pilot.finish().items():
        assert torch.allclose(static[layer]["levels"], arrays["levels"], atol=1e-4)
    extract(config)
    exact = extractor.clip_tokens(extractor.prepare(1))
    for name, tokens in TokenStore.open(config.out)[1].items():
        assert (tokens.floats() - exact[name]).norm() < 0.1 * exact[name].norm()


def test_a_clip_that_cannot_be_decoded_is_passed_over(tmp_path):
    root = write_clips(tmp_path / "AVE", train=2)
    dataset = open_dataset("ave", root)
    for file in sorted(path for path in root.rglob(f"*{dataset.clips[1].id}*") if path.is_file()):
        file.write_bytes(b"nothing that can be decoded")
    extractor = build_extractor(tiny(root, tmp_path / "s.zarr", codec="six", layers="stages"), dataset)
    with pytest.raises(MediaError):
        extractor.prepare(1)
    pilot = extractor.codec.pilot(extractor.layers)
    for index in (0, 2, 3):
        pilot.add({name: x[:2] for name, x in extractor.clip_tokens(extractor.prepare(index)).items()})
    static = with_static_arrays(extractor, tmp_path / "s.zarr").static
    for layer, arrays in pilot.finish().items():
        assert torch.allclose(static[layer]["levels"], arrays["levels"], atol=1e-4)


def test_what_a_store_cannot_give_is_looked_for_again(root, tmp_path):
    """Arrays that are damaged, or of other layers."""
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, open_dataset("ave", root))
    assert extract(config).ok
    stored = with_static_arrays(extractor, config.out).static
    every = with_static_arrays(build_extractor(replace(config, layers="all"), extractor.dataset), config.out)
    assert set(every.static) == {layer.name for layer in every.layers} > set(stored)
    for file in config.out.glob("static/*/*/c.*"):
        file.write_bytes(b"damaged")
    again = with_static_arrays(extractor, config.out).static
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[layer]["levels"], stored[layer]["levels"]) for layer in stored)


def test_a_codec_without_static_arrays_needs_no_pilot(root, tmp_path):
    extractor = build_extractor(tiny(root, tmp_path / "s.zarr"), open_dataset("ave", root))
    assert with_static_arrays(extractor, tmp_path / "s.zarr") is extractor
