"""The tokens of benches have the spectrum that is stated for their stage."""

import numpy as np
import pytest
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers, bench_static
from mettle_cache.pipelines.benchmark.spectral import KNOTS, SPECTRA, spectral_tokens
from mettle_cache.store.format.codecs import encode_layers, get_codec

WIDTH, GRID, CLIPS = 256, (12, 12), 16


def layer_of(array, width=WIDTH, grid=GRID):
    modality, stage = array.split("/s")
    return LayerSpec(modality=modality, stage=int(stage), block=1, grid=grid, tokens=grid[0] * grid[1], width=width)


def draw(layer, seed, frames=2):
    return spectral_tokens(layer, frames, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=sorted(SPECTRA))
def stage(request):
    """A stage's spectrum, and float64 normalised tokens ``[clip, 2, N, D]`` of it with the norms they had."""
    raw = np.stack([draw(layer_of(request.param), seed).double().numpy() for seed in range(CLIPS)])
    norms = raw.std(-1)
    return SPECTRA[request.param], (raw - raw.mean(-1, keepdims=True)) / norms[..., None], norms


def test_a_spectrum_is_stated_for_every_stage_of_the_full_table():
    assert SPECTRA.keys() == {layer.array for layer in bench_layers()}
    for spectrum in SPECTRA.values():
        assert len(spectrum.variances) == len(spectrum.next_token) == len(spectrum.next_frame) == len(KNOTS)


def test_the_deviations_have_the_stated_variances(stage):
    spectrum, x, _ = stage
    y = (x - x.mean(2, keepdims=True)).reshape(-1, WIDTH)
    found = np.linalg.eigvalsh(y.T @ y / len(y))[::-1][:-1]
    stated = np.exp2(np.interp(np.linspace(0, 1, WIDTH - 1), KNOTS, spectrum.variances))
    # a sample, and norms made 1, move the largest; the cumulated energy is what codes live on
    assert np.abs(np.cumsum(found) / found.sum() - np.cumsum(stated) / stated.sum()).max() < 0.06
    assert np.abs(np.log2(found / found.sum() / stated * stated.sum())).mean() < 0.3


def test_the_frames_mean_token_has_the_stated_share(stage):
    spectrum, x, _ = stage
    means = x.mean(2)
    assert np.square(means).sum() * x.shape[2] / np.square(x).sum() == pytest.approx(spectrum.mean_share, abs=0.03)
    successive = (means[:, 0] * means[:, 1]).sum() / (np.square(means).sum() / 2)
    assert successive == pytest.approx(spectrum.mean_next, abs=0.03)
    overall = means.mean((0, 1))
    # the common part and a sixteenth of the clips' own
    static = spectrum.mean_static + (1 - spectrum.mean_static) / CLIPS
    assert np.square(overall).sum() / (np.square(means).sum() / means[..., 0].size) == pytest.approx(static, abs=0.06)


def test_neighbours_and_successive_frames_are_as_alike_as_stated(stage):
    spectrum, x, _ = stage
    y = (x - x.mean(2, keepdims=True)).reshape(CLIPS, 2, *GRID, WIDTH)
    places = np.linspace(0, 1, WIDTH - 1)
    weights = np.exp2(np.interp(places, KNOTS, spectrum.variances))

    def stated(values):
        return (np.interp(places, KNOTS, values) * weights).sum() / weights.sum()

    energy = np.square(y).mean((0, 1, 2, 3)).sum()
    beside = (y[:, :, :, 1:] * y[:, :, :, :-1]).mean((0, 1, 2, 3)).sum() / energy
    below = (y[:, :, 1:] * y[:, :, :-1]).mean((0, 1, 2, 3)).sum() / energy
    later = (y[:, 0] * y[:, 1]).mean((0, 1, 2)).sum() / energy
    assert beside == pytest.approx(stated(spectrum.next_token), abs=0.06)
    assert below == pytest.approx(stated(spectrum.next_token), abs=0.06)
    assert later == pytest.approx(stated(spectrum.next_frame), abs=0.06)


def test_norms_spread_as_stated(stage):
    spectrum, _, norms = stage
    assert np.log(norms).std() == pytest.approx(spectrum.norms, rel=0.1)


@pytest.mark.parametrize("array", ["visual/s3", "audio/s4"])
def test_channels_spread_as_stated_at_full_width(array):
    layer = next(layer for layer in bench_layers() if layer.array == array)
    x = torch.cat([draw(layer, seed, 1) for seed in range(4)])
    x = torch.nn.functional.layer_norm(x, x.shape[-1:])
    spread = (x - x.mean(1, keepdim=True)).square().mean((0, 1)).sqrt()
    assert float(spread.max() / spread.median()) == pytest.approx(SPECTRA[array].channels, rel=0.25)


@pytest.mark.parametrize(("array", "of_pretrained"), [("audio/s1", 0.301), ("audio/s2", 0.306), ("audio/s3", 0.157)])
def test_klt_leaves_the_error_that_it_leaves_on_pretrained_features(array, of_pretrained):
    """Those figures are of held-out clips of the tokens that the stage's numbers come from."""
    layer = next(layer for layer in bench_layers() if layer.array == array)
    codec, static = get_codec("klt1.5"), bench_static((layer,), "klt1.5")
    x = draw(layer, 7, 1)
    decoded = encode_layers({layer.name: x}, codec, [layer], static)[layer.name].normalised()
    exact = torch.nn.functional.layer_norm(x, x.shape[-1:])
    assert float((decoded - exact).norm() / exact.norm()) == pytest.approx(of_pretrained, rel=0.1)


def test_tokens_follow_from_the_seed():
    layer = layer_of("visual/s1", width=16, grid=(4, 2))
    assert torch.equal(draw(layer, 1), draw(layer, 1))
    assert not torch.equal(draw(layer, 1), draw(layer, 2))
    assert draw(layer, 1, frames=3).shape == (3, 8, 16)


def test_backbones_of_any_layers_have_tokens():
    layer = LayerSpec(modality="audio", stage=5, block=1, grid=(2, 2), tokens=5, width=16)
    tokens = draw(layer, 1, frames=3)
    assert tokens.shape == (3, 5, 16)
    assert tokens.isfinite().all()
