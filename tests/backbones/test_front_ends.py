"""Pictures and log-mel pictures, against torchvision's and Kaldi's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.compliance import kaldi
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from mettle_cache.backbones import BackboneRequest, create_backbone, shared_audio
from mettle_cache.backbones.front_ends import SWIN_FBANK, VIT_FBANK, ImageTransform, cut_windows
from mettle_cache.backbones.timm_backbone import TimmFamily
from mettle_cache.errors import MediaError
from mettle_cache.preprocessing import FbankPreprocessing, Preprocessing, Recording

PEERS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_steps_are_those_of_the_peers(frames, antialias, interpolation):
    transform = ImageTransform(size=(48, 48), interpolation=interpolation, antialias=antialias, **PEERS)
    result = transform(frames, 3)
    for picture, tensor in zip(frames, result, strict=True):
        scaled = torch.from_numpy(picture).permute(2, 0, 1).contiguous().float() / 255
        resized = vision.resize(scaled, [48, 48], InterpolationMode(interpolation), antialias=antialias)
        assert torch.allclose(tensor, vision.normalize(resized, **PEERS), atol=2e-5)


def test_overshoot_is_not_clamped(frames):
    plain = ImageTransform(size=(192, 192), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))(frames, 3)
    assert plain.max() > 1
    assert plain.min() < 0


def test_the_same_pictures_give_the_same_bits_whatever_their_memory(frames):
    transform = ImageTransform(size=(48, 48), interpolation="bicubic", **PEERS)
    flipped = [np.ascontiguousarray(picture[::-1])[::-1] for picture in frames]
    read_only = [picture.copy() for picture in frames]
    for picture in read_only:
        picture.flags.writeable = False
    assert torch.equal(transform(frames, 3), transform(flipped, 3))
    assert torch.equal(transform(frames, 3), transform(read_only, 3))


@pytest.mark.parametrize(
    ("name", "size", "mean", "std", "interpolation"),
    [
        ("test_vit", 160, (0.5,) * 3, (0.5,) * 3, "bicubic"),
        ("test_resnet", 160, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        ("test_efficientnet@64", 64, PEERS["mean"], PEERS["std"], "bicubic"),
    ],
)
def test_other_models_follow_their_own_pretrained_cfg(name, size, mean, std, interpolation):
    backbone = create_backbone(name, weights="random")
    assert backbone.segment_shape == (3, size, size)
    described = backbone.fingerprint()["preprocessing"]
    assert described == {
        "kind": "picture",
        "resize": "both sides",
        "size": [size, size],
        "mean": list(mean),
        "std": list(std),
        "interpolation": interpolation,
        "antialias": False,
    }


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ([np.zeros((4, 4, 3), np.uint8)], "2 segments needs 2 pictures, not 1"),
        ([np.zeros((4, 4, 3), np.float32)] * 2, "picture 0 is float32"),
        ([np.zeros((4, 4), np.uint8)] * 2, "not RGB uint8"),
        ([np.zeros((4, 4, 4), np.uint8)] * 2, "not RGB uint8"),
        ([np.zeros((0, 4, 3), np.uint8)] * 2, "not RGB uint8"),
    ],
)
def test_what_is_no_clip_is_refused(media, message):
    transform = ImageTransform(size=(8, 8), interpolation="bicubic", **PEERS)
    with pytest.raises(MediaError, match=message):
        transform(media, 2)


# docs/protocols/avel.md, "Sound in the shared mode": the starts in a clip of 160,000 samples
STARTS = [0, 15822, 31644, 47466, 63288, 79111, 94933, 110755, 126577, 142400]


def test_windows_start_where_the_peers_start():
    samples = torch.arange(160000)
    assert [int(window[0]) for window in cut_windows(samples, 10)] == STARTS
    assert {len(window) for window in cut_windows(samples, 10)} == {16000}


@given(st.integers(1, 60000), st.integers(1, 12))
def test_there_is_a_window_for_every_segment(samples, segments):
    windows = cut_windows(torch.arange(samples), segments)
    assert len(windows) == segments
    assert all(len(window) == (16000 if samples > 17600 else samples) for window in windows)


def test_a_clip_of_up_to_1100_ms_is_used_whole(speech):
    waveform = speech(17600, 16000)
    pictures = SWIN_FBANK(waveform, 3)
    assert torch.equal(pictures[0], pictures[2])
    assert all(len(window) == 17600 for window in cut_windows(torch.from_numpy(waveform), 3))


@pytest.mark.parametrize(
    ("fbank", "obtained", "target", "mels", "shift"),
    [(SWIN_FBANK, 188, 192, 192, 5.2), (VIT_FBANK, 98, 102, 128, 10.0)],
)
def test_a_picture_is_the_tables(fbank, obtained, target, mels, shift, speech):
    waveform = speech(160000, 16000) + 0.1
    pictures = fbank(waveform, 10)
    assert pictures.shape == (10, 3, target, mels)
    assert fbank.shape == (3, target, mels)
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    assert not pictures[:, :, obtained:].any()
    assert pictures[:, 0, obtained - 1].all()
    centred = torch.from_numpy(waveform - waveform.mean())[None, 31644 : 31644 + 16000]
    expected = kaldi.fbank(
        centred, htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
        num_mel_bins=mels, dither=0.0, frame_shift=shift,
    )  # fmt: skip
    assert expected.shape == (obtained, mels)
    assert torch.allclose(pictures[2, 0, :obtained], (expected - fbank.mean) / (2 * fbank.std), atol=1e-4)


@pytest.mark.parametrize("seconds", [1.0, 1.95])
@pytest.mark.parametrize("rate", [16_000, 44_100, 22_050, 11_025])
def test_a_recording_is_heard_at_its_own_rate(rate, seconds):
    """LAVISH's steps on a file's first channel, by Kaldi's own filterbank."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * rate).astype(np.float32) + np.float32(0.1)
    fbank = replace(SWIN_FBANK, frame_shift_ms=10.0, window_seconds=seconds, file_sound=True)
    pictures = fbank(Recording(samples, rate), 5)
    centred = torch.from_numpy(samples - samples.mean())
    starts = np.linspace(0, len(samples) - rate * (seconds + 0.1), num=5, dtype=int)
    for picture, start in zip(pictures, starts, strict=True):
        spectrum = kaldi.fbank(
            centred[None, start : start + int(rate * seconds)], htk_compat=True, sample_frequency=rate,
            use_energy=False, window_type="hanning", num_mel_bins=192, dither=0.0, frame_shift=10,
        )  # fmt: skip
        expected = torch.zeros(192, 192)
        expected[: len(spectrum)] = ((spectrum - fbank.mean) / (2 * fbank.std))[:192]
        assert torch.allclose(picture[0], expected, atol=1e-4)


def test_a_rate_that_no_sound_has_is_refused(speech):
    with pytest.raises(MediaError, match="a rate of 41 Hz is not from 4000 to 384000 Hz"):
        SWIN_FBANK(Recording(speech(1000, 16_000), 41), 1)


def test_the_description_says_how_sound_files_are_heard():
    plain, own = SWIN_FBANK.to_json(), replace(SWIN_FBANK, file_sound=True).to_json()
    assert "file_sound" not in plain
    assert own == {**plain, "sound_files": "first channel at its own rate"}


def test_other_backbones_read_swins_picture_at_their_size(speech):
    waveform = speech(40000, 16000)
    resized = replace(SWIN_FBANK, size=(96, 96))(waveform, 2)
    assert resized.shape == (2, 3, 96, 96)
    native = SWIN_FBANK(waveform, 2)
    assert torch.equal(replace(SWIN_FBANK, size=(192, 192))(waveform, 2), native)
    assert torch.allclose(resized, torch.nn.functional.avg_pool2d(native, 2), atol=1e-5)


def test_the_shared_mode_uses_the_same_weights(speech):
    visual = create_backbone("test_vit", weights="random", seed=4)
    audio = shared_audio(visual)
    assert (audio.modality, audio.sample_rate, audio.segment_shape) == ("audio", 16000, (3, 160, 160))
    assert [layer.name for layer in audio.layers] == [f"audio/s1b{b:02d}" for b in range(1, 7)]
    assert audio.trunk is visual.trunk
    x = audio.preprocess(speech(160000, 16000), 10)
    assert x.shape == (10, 3, 160, 160)
    heard = audio.forward_tokens(x)["audio/s1b06"]
    assert torch.equal(heard, visual.forward_tokens(x)["visual/s1b06"])
    again = create_backbone("test_vit", weights="random", seed=4, modality="audio")
    assert again.fingerprint() == audio.fingerprint()
    assert again.fingerprint()["preprocessing"]["mel_bins"] == 192


def test_a_vit_of_its_own_picture_gives_49_tokens(speech):
    family = TimmFamily("test_vit", 160, True, VIT_FBANK)
    audio = family.create(BackboneRequest(name="test_vit", weights="random", modality="audio"))
    tokens = audio.forward_tokens(audio.preprocess(speech(160000, 16000), 2))
    assert {token.shape for token in tokens.values()} == {(2, 49, 64)}
    assert audio.layers[0].grid == (6, 8)
    assert audio.fingerprint()["positions"] == "linear along the token axis"


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 16000), np.float32), r"a waveform is floats \[samples\], not float32 \[2, 16000\]"),
        (np.zeros(16000, np.int16), "a waveform is floats"),
        (np.zeros(399, np.float32), "399 samples is shorter than one frame"),
        (np.full(16000, np.nan, np.float32), "not finite numbers"),
    ],
)
def test_what_is_no_waveform_is_refused(waveform, message):
    with pytest.raises(MediaError, match=message):
        SWIN_FBANK(waveform, 10)


def test_a_data_set_may_have_windows_shift_and_statistics_of_its_own(speech):
    preprocessing = Preprocessing(
        fbank=FbankPreprocessing(window_seconds=1.95, frame_shift_ms=10.0, mean=-5.4, std=3.6)
    )
    heard = create_backbone("test_vit", weights="random", modality="audio", preprocessing=preprocessing)
    expected = replace(SWIN_FBANK, **vars(preprocessing.fbank), size=heard.segment_shape[1:])
    waveform = speech(160000, 16000)
    assert torch.equal(heard.preprocess(waveform, 10), expected(waveform, 10))
    # docs/protocols/avqa.md, "Seconds that are looked at": windows of 31,200 samples, the last 2.05 s before the end
    windows = cut_windows(torch.arange(160000), 10, 1.95)
    assert {len(window) for window in windows} == {31200}
    assert (int(windows[0][0]), int(windows[-1][0])) == (0, 160000 - 32800)
