"""A tiny run of the codecs' bench, and its errors against a formula in float64."""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.codec import CODEC_NAMES
from mettle_cache.pipelines.benchmark.codec_errors import CodecErrors, codec_errors
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.registry import run_bench
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.store.tiny import make_spec, write_store

LAYER = LayerSpec(modality="visual", stage=1, block=1, grid=(2, 3), tokens=6, width=8)


@pytest.fixture(scope="module")
def table():
    return run_bench("codec", BenchOptions(repeats=1, tiny=True, device="cpu"))


@pytest.fixture(scope="module")
def of_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "s.zarr"
    spec = make_spec("float16", 6)
    splits = ["train"] * 4 + ["test"] * 2 + ["train"]
    samples = spec.samples.set_column(2, "split", [splits])
    write_store(path, make_spec("float16", 6, samples=samples))
    return run_bench("codec", BenchOptions(repeats=1, tiny=True, device="cpu", store=path))


def errors(table, layer):
    return [table.row(f"{name}: {layer}").value for name in CODEC_NAMES]


@pytest.mark.parametrize("layer", ["visual/s1b01", "audio/s2b01"])
def test_fewer_bits_leave_larger_errors(table, layer):
    found = errors(table, layer)
    assert found == sorted(found)
    assert found[0] < 1e-3
    assert found[-1] > 0.8


def test_bytes_are_those_of_all_layers_beside_float16(table):
    whole = table.row("float16: bytes").value
    sizes = [table.row(f"{name}: bytes") for name in CODEC_NAMES[1:]]
    assert [size.value for size in sizes] == sorted([size.value for size in sizes], reverse=True)
    assert all(size.ratio == pytest.approx(size.value / whole) for size in sizes)


def test_a_store_of_ave_is_counted_for_every_codec(table):
    for name in CODEC_NAMES:
        assert table.row(f"{name}: AVE").value > 4097 * table.row(f"{name}: bytes").value / 1e3 * 0.999
        assert table.row(f"{name}: AVE's files").value > 0
    assert table.row("klt1.5: AVE").denominator == "float16: AVE"


def test_encoding_is_timed_beside_the_backbones(table):
    assert table.row("klt1.5: encoding").value > 0
    assert table.row("klt1.5: encoding").denominator == "backbones"


def test_a_store_is_measured_layer_by_layer(of_store):
    assert "2 clips that no pilot saw" in of_store.title
    for layer in ("visual/s1b01", "visual/s1b02", "visual/s2b03", "audio/s1b01"):
        found = errors(of_store, layer)
        # the store's tokens are in float16 themselves
        assert found[0] == 0
        assert found[1] < found[2] < found[-1]
    assert of_store.row("klt1.5: encoding").denominator is None


def test_only_float16_can_be_measured(tmp_path):
    write_store(tmp_path / "s.zarr", make_spec("int8", 2))
    with pytest.raises(UsageError, match="is in int8; errors are measured against tokens in float16"):
        run_bench("codec", BenchOptions(repeats=1, store=tmp_path / "s.zarr"))


def test_clips_of_no_training_sample_are_wanted(tmp_path):
    write_store(tmp_path / "s.zarr", make_spec("float16", 2))
    with pytest.raises(UsageError, match="needs clips of training samples, for the pilot, and others"):
        run_bench("codec", BenchOptions(repeats=1, store=tmp_path / "s.zarr"))


def test_errors_are_relative_to_all_frames_together():
    random = torch.Generator().manual_seed(0)
    clips = [torch.randn(2, 6, 8, generator=random) * scale for scale in (1, 5)]
    coded = [x + 0.1 * torch.randn(x.shape, generator=random) for x in clips]
    sums = CodecErrors(LAYER)
    for x, y in zip(clips, coded, strict=True):
        sums = sums + codec_errors(LAYER, x, LayerTokens(y, FLOATS))
    x, y = torch.cat(clips).double(), torch.cat(coded).double()

    def normalised(tokens):
        centred = tokens - tokens.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def relative(decoded, exact):
        return float((decoded - exact).norm() / exact.norm())

    assert sums.raw == pytest.approx(relative(y, x))
    assert sums.tokens == pytest.approx(relative(normalised(y), normalised(x)))
    assert sums.raw_mean == pytest.approx(relative(y.mean(1), x.mean(1)))
    assert sums.mean == pytest.approx(relative(normalised(y).mean(1), normalised(x).mean(1)))
