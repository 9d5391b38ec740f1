"""A codec's pilot in an extraction: run once, and taken from the store afterwards."""

import pytest
import torch

from mettle_cache.datasets import open_dataset
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
        pilot.add(extractor.clip_tokens(extractor.prepare(index)))
    static = with_static_arrays(extractor, config.out).static
    for layer, arrays in pilot.finish().items():
        assert torch.allclose(static[layer]["levels"], arrays["levels"], atol=1e-6)
    extract(config)
    exact = extractor.clip_tokens(extractor.prepare(1))
    for name, tokens in TokenStore.open(config.out)[1].items():
        assert (tokens.floats() - exact[name]).norm() < 0.1 * exact[name].norm()


def test_a_codec_without_static_arrays_needs_no_pilot(root, tmp_path):
    extractor = build_extractor(tiny(root, tmp_path / "s.zarr"), open_dataset("ave", root))
    assert with_static_arrays(extractor, tmp_path / "s.zarr") is extractor
