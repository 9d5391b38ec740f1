"""What a run and an exported head keep of their store's codec."""

import json

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.evaluate.export import export_run, load_exported, load_exported_codec
from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.pipelines.train.kept_arrays import kept_static
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from mettle_cache.store.format.codecs import encode_layers, get_codec

FAST = ["lcd.dim=16", "train.epochs=1", "layers=[visual/s2,audio]"]


@pytest.fixture(scope="module")
def klt(tiny_store, tmp_path_factory):
    path = tmp_path_factory.mktemp("klt") / "s.zarr"
    recode(RecodeConfig(store=tiny_store(8, 4, 4, codec="float16").path, codec="klt2", out=path))
    return TokenStore.open(path)


@pytest.fixture(scope="module")
def trained(klt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(klt, recipe=load_recipe("ave-small", FAST), out=folder)
    return RunFolder(folder)


def assert_same(static, store):
    read = {layer.name for layer in store.layers} - {"visual/s1b01"}
    assert static.keys() == read
    for layer, arrays in static.items():
        assert arrays.keys() == store.static[layer].keys() == {"basis", "step", "bits"}
        assert all(torch.equal(array, store.static[layer][part]) for part, array in arrays.items())


def test_a_run_keeps_the_static_arrays_of_the_layers_that_it_reads(klt, trained):
    assert_same(kept_static(trained), klt)
    assert "static.safetensors" in json.loads(trained.config.read_text())["files"]


def test_a_run_that_goes_on_keeps_them_as_they_are(klt, trained):
    before = trained.static.stat().st_mtime_ns
    train(klt, recipe=load_recipe("ave-small", [*FAST, "train.epochs=2"]), out=trained.path, resume=True)
    assert trained.static.stat().st_mtime_ns == before


def test_damage_is_told(klt, tmp_path):
    train(klt, recipe=load_recipe("ave-small", FAST), out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    data = bytearray(folder.static.read_bytes())
    data[-1] ^= 1
    folder.static.write_bytes(data)
    with pytest.raises(RunError, match=r"static\.safetensors: not what the run's config\.json lists"):
        kept_static(folder)


def test_other_codecs_have_none(tiny_store, tmp_path):
    store = tiny_store(8, 4, 4)
    train(store, recipe=load_recipe("ave-small", FAST), out=tmp_path / "run")
    assert not RunFolder(tmp_path / "run").static.exists()
    assert kept_static(RunFolder(tmp_path / "run")) == {}


def test_an_exported_head_encodes_tokens_as_those_that_it_was_trained_on(klt, trained):
    report = export_run(trained.path, store=klt, repeats=1)
    codec, static = load_exported_codec(report.out)
    assert codec == "klt2"
    assert_same(static, klt)
    head, layers = load_exported(report.out), [layer for layer in klt.layers if layer.name in static]
    tokens = {layer.name: torch.randn(1, klt.segments, layer.tokens, layer.width) for layer in layers}
    encoded = encode_layers(tokens, get_codec(codec), layers, static)
    expected = encode_layers(tokens, get_codec(codec), layers, klt.static)
    assert all(torch.equal(encoded[name].codes, expected[name].codes) for name in tokens)
    assert all(output.isfinite().all() for output in head(encoded).values())
