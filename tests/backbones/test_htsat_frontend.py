"""The log-mel against independent arithmetic: numpy's FFT in float64, transformers' filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mettle_cache.backbones.htsat_frontend import LogMel, MelSettings, dft_kernels

pytest.importorskip("transformers", reason="the reference: pip install transformers (it is in the dev extra)")


def expected_decibels(waveform: np.ndarray) -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(513, 64, 50, 14000, 32000, norm="slaney", mel_scale="slaney")
    padded = np.pad(waveform.astype(np.float64), 512, mode="reflect")
    window = np.hanning(1025)[:-1]  # periodic
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::320] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    return 10 * np.log10(np.maximum(power @ filters, 1e-10))


@pytest.mark.parametrize("exact", [False, True])
def test_decibels_are_the_references(exact):
    noise = 0.3 * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    settings = MelSettings()
    decibels = LogMel(settings, settings.filters(), dft_kernels(1024) if exact else None)(torch.from_numpy(noise)[None])
    assert decibels.shape == (1, 1, 101, 64)
    assert np.abs(decibels[0, 0].numpy() - expected_decibels(noise)).max() < 5e-4


def test_silence_is_at_the_floor_and_loudness_has_no_ceiling():
    settings = MelSettings()
    front = LogMel(settings, settings.filters())
    waveform = torch.zeros(1, 64000)
    waveform[0, :20000] = torch.randn(20000, generator=torch.Generator().manual_seed(0)) * 100
    decibels = front(waveform)[0, 0]
    assert (decibels[-50:] == -100).all()
    assert decibels.max() - decibels.min() > 120  # torchaudio's usual top_db of 80 would lift the silence


def test_the_kernels_begin_with_the_window():
    cosines, sines = dft_kernels(1024)
    assert torch.allclose(cosines[0, 0], torch.hann_window(1024, periodic=True), atol=1e-6)
    assert not sines[0].any()


def test_autocast_does_not_reach_the_front_end():
    settings = MelSettings()
    front = LogMel(settings, settings.filters())
    waveform = torch.randn((1, 32000), generator=torch.Generator().manual_seed(0))
    expected = front(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(front(waveform), expected)
