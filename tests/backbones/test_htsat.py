"""The htsat backbone around its trunk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mettle_cache.backbones import create_backbone, layer_table
from mettle_cache.backbones.htsat_trunk import Htsat, HtsatSizes
from mettle_cache.errors import MediaError, UsageError, WeightsError
from mettle_cache.preprocessing import Preprocessing


@pytest.fixture
def small(tmp_path, originals):
    return create_backbone("htsat", weights=originals.write(tmp_path / "small.ckpt", originals.state()))


def test_one_second_is_repeated_to_ten(small, speech):
    seconds = torch.from_numpy(speech(64000, 32000)).view(2, 32000)
    tokens = small.forward_tokens(seconds)
    tiled = small.forward_tokens(torch.cat([seconds] * 10, dim=1))
    assert all(torch.equal(tokens[name], tiled[name]) for name in tokens)
    assert tokens["audio/s1b01"].shape == (2, 4096, 24)


def test_a_batch_gives_what_its_segments_give_alone(small, speech):
    seconds = torch.from_numpy(speech(96000, 32000)).view(3, 32000)
    together = small.forward_tokens(seconds)
    for index in range(3):
        alone = small.forward_tokens(seconds[index : index + 1])
        for name, tokens in together.items():
            assert (tokens[index] - alone[name][0]).abs().max() <= 1e-5 * tokens.abs().max()


@pytest.mark.parametrize(("samples", "kept"), [(320000, 320000), (100, 100), (400000, 320000)])
def test_a_waveform_is_cut_or_padded_with_zeros(small, speech, samples, kept):
    waveform = speech(samples, 32000)
    segments = small.preprocess(waveform, 10)
    assert segments.shape == (10, 32000)
    assert np.array_equal(segments.flatten()[:kept].numpy(), waveform[:kept])
    assert not segments.flatten()[kept:].any()
    assert (small.sample_rate, small.segment_shape) == (32000, (32000,))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "0 samples is shorter"),
        (np.zeros((1, 5), np.float32), "a waveform is floats"),
        (np.array([np.inf], np.float32), "not finite"),
    ],
)
def test_what_is_no_waveform_is_refused(small, waveform, message):
    with pytest.raises(MediaError, match=message):
        small.preprocess(waveform, 10)


@pytest.mark.parametrize("samples", [16000, 64000, 320001])
def test_another_length_is_refused(small, samples):
    with pytest.raises(UsageError, match=r"takes float32 \[B, 32000\] or \[B, 320000\], not float32"):
        small.forward_tokens(torch.zeros(1, samples))


def test_more_frames_than_the_image_has_are_refused_not_cropped():
    model = Htsat(HtsatSizes(width=24, depths=(2, 2), heads=(2, 4))).eval()
    with pytest.raises(UsageError, match=r"at most 1024 frames \(327679 samples\), not 1025"):
        model.forward_features(torch.zeros(1, 327680))


def test_random_weights_have_the_published_size():
    backbone = create_backbone("htsat", weights="random", seed=1)
    assert backbone.layers == layer_table("htsat")
    assert backbone.frozen_parameters == 31_325_143
    # docs/protocols/htsat.md, "Parameters": needed for tokens, the final norm included
    assert sum(parameter.numel() for parameter in backbone.trunk.parameters()) == 27_534_488


def test_the_exact_front_end_works_on_random_weights_too(speech):
    second = torch.from_numpy(speech(32000, 32000))[None]
    fast = create_backbone("htsat", weights="random", seed=1)
    exact = create_backbone("htsat", weights="random", seed=1, exact_dft=True)
    expected, tokens = (backbone.trunk.network.logmel(second) for backbone in (fast, exact))
    assert 0 < (expected - tokens).abs().max() < 0.05
    assert fast.fingerprint() != exact.fingerprint()


def test_the_fingerprint_is_json_and_complete(small):
    fingerprint = small.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["preprocessing"] == {
        "kind": "log-mel",
        "sample_rate": 32000,
        "n_fft": 1024,
        "hop": 320,
        "mels": 64,
        "f_min": 50.0,
        "f_max": 14000.0,
        "seconds_repeated": 10,
        "exact_dft": False,
    }
    assert fingerprint["weights"] == {"kind": "pretrained", "digest": small.trunk.digest}
    assert set(fingerprint["versions"]) == {"timm", "torch", "torchaudio"}


def test_half_precision_leaves_the_front_end_alone(tmp_path, originals, speech):
    path = originals.write(tmp_path / "small.ckpt", originals.state())
    exact, half = (create_backbone("htsat", weights=path, precision=p) for p in ("float32", "bfloat16"))
    seen: dict[str, torch.Tensor] = {}
    for name, backbone in (("exact", exact), ("half", half)):
        backbone.trunk.network.logmel.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output})
        )
    second = torch.from_numpy(speech(32000, 32000))[None]
    expected, tokens = exact.forward_tokens(second), half.forward_tokens(second)
    assert torch.equal(seen["exact"], seen["half"])
    for name, token in tokens.items():
        assert token.dtype == torch.float32
        assert 0 < (token - expected[name]).abs().max() < 0.1 * expected[name].abs().max()


def test_the_checkpoint_is_looked_for_in_two_places(tmp_path, monkeypatch, originals):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METTLE_WEIGHTS", raising=False)
    with pytest.raises(WeightsError, match=r"no HTSAT_AudioSet_Saved_\*\.ckpt in .*weights, and METTLE_WEIGHTS is not"):
        create_backbone("htsat")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("METTLE_WEIGHTS", str(elsewhere))
    with pytest.raises(WeightsError, match=r"or in .*elsewhere \(METTLE_WEIGHTS\)") as caught:
        create_backbone("htsat")
    assert "--audio htsat=FILE" in (caught.value.hint or "")
    path = originals.write(elsewhere / "HTSAT_AudioSet_Saved_2.ckpt", originals.state())
    assert create_backbone("htsat").weights_source.startswith(f"file {path} (")
    (tmp_path / "weights").mkdir()
    originals.write(tmp_path / "weights" / "HTSAT_AudioSet_Saved_1.ckpt", originals.state(seed=1))
    assert create_backbone("htsat").weights_source.startswith("file weights/HTSAT_AudioSet_Saved_1.ckpt (")


def test_avsbench_hears_a_second_five_times(small, tmp_path, originals, speech):
    file = originals.write(tmp_path / "same.ckpt", originals.state())
    five = create_backbone("htsat", weights=file, preprocessing=Preprocessing(seconds_repeated=5))
    second = torch.from_numpy(speech(32000, 32000)).view(1, 32000)
    tokens, tiled = five.forward_tokens(second), five.forward_tokens(second.repeat(1, 5))
    assert all(torch.equal(tokens[name], tiled[name]) for name in tokens)
    assert not torch.equal(tokens["audio/s1b01"], small.forward_tokens(second)["audio/s1b01"])
    assert five.fingerprint() != small.fingerprint()


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        (60, [0, 6, 13, 19, 26, 32, 39, 45, 52, 59]),
        (59, [0, 6, 12, 19, 25, 32, 38, 45, 51, 58]),
        (10, list(range(10))),
        (12, [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]),
    ],
)
def test_seconds_of_a_longer_recording_are_spread_like_its_pictures(small, tmp_path, originals, seconds, chosen):
    file = originals.write(tmp_path / "same.ckpt", originals.state())
    spread = create_backbone("htsat", weights=file, preprocessing=Preprocessing(spread_seconds=True))
    waveform = np.repeat(np.arange(seconds, dtype=np.float32) / 100, 32000)
    assert (100 * spread.preprocess(waveform, 10)[:, 7]).round().tolist() == chosen
    # a recording's last second is hardly ever whole
    assert (100 * spread.preprocess(waveform[:-9000], 10)[:, 7]).round().tolist() == chosen
    assert (100 * small.preprocess(waveform, 10)[:, 7]).round().tolist() == list(range(10))
    assert spread.fingerprint() != small.fingerprint()


def test_a_recording_too_short_to_spread_is_padded(tmp_path, originals):
    file = originals.write(tmp_path / "same.ckpt", originals.state())
    spread = create_backbone("htsat", weights=file, preprocessing=Preprocessing(spread_seconds=True))
    segments = spread.preprocess(np.ones(48000, np.float32), 10)
    assert segments.shape == (10, 32000)
    assert segments.sum().item() == 48000
