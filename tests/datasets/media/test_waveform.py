from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.datasets.media import waveform
from mettle_cache.datasets.media.fault import MediaFileError

TEN_SECONDS = 320_000


def _tone(rate: int, seconds: float = 10.0, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("shape", [(320_000,), (1, 320_000), (10, 32_000), (320_000, 1), (10, 1, 32_000)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_arrays_of_any_shape_that_views_to_ten_seconds(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.linspace(-1, 1, TEN_SECONDS).astype(dtype).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    samples, rate = waveform.read_npy(tmp_path / "a.npy", 10)
    assert (rate, samples.dtype, samples.shape) == (32_000, np.float32, (TEN_SECONDS,))
    assert samples.flags.writeable
    np.testing.assert_array_equal(samples, values.reshape(-1).astype(np.float32))


def test_column_order_on_disk_is_not_column_order_in_time(tmp_path: Path) -> None:
    values = np.arange(TEN_SECONDS, dtype=np.float32).reshape(10, 32_000)
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    np.testing.assert_array_equal(waveform.read_npy(tmp_path / "a.npy", 10)[0], values.reshape(-1))


@pytest.mark.parametrize("count", [288_000, 319_999, 352_000])
def test_one_row_within_a_second_of_ten_is_taken_as_it_is(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, count), np.float32))
    assert waveform.read_npy(tmp_path / "a.npy", 10)[0].shape == (count,)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.zeros(160_000, np.float32), r"holds 160000 values of shape \(160000,\), not 10 s of mono at 32000 Hz"),
        (np.zeros(441_000, np.float32), "holds 441000 values"),
        (np.zeros((2, 320_000), np.float32), r"holds 640000 values of shape \(2, 320000\)"),
        (np.zeros((2, 160_001), np.float32), r"holds 320002 values of shape \(2, 160001\)"),
        (np.float32(0), r"holds 1 values of shape \(\)"),
        (np.zeros(320_000, np.int16), "holds int16, not floats"),
        (np.zeros(320_000, np.complex64), "holds complex64, not floats"),
        (np.full(320_000, "x"), "holds <U1, not floats"),
    ],
)
def test_another_array_is_refused(tmp_path: Path, values: np.ndarray, what: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(MediaFileError, match=f"a.npy: {what}"):
        waveform.read_npy(tmp_path / "a.npy", 10)


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "a.npy").write_bytes(pickle.dumps(_Canary(canary)))
    np.save(tmp_path / "b.npy", np.array([_Canary(canary)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npz", x=np.zeros(320_000, np.float32))
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    for name in ("a.npy", "b.npy", "c.npy"):
        with pytest.raises(MediaFileError, match=r"is not a plain .npy array of floats \(pickles are not loaded\)"):
            waveform.read_npy(tmp_path / name, 10)
    assert not canary.exists()


def _npy(header: bytes, size: int = 1000) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * size


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (320000,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-320000,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        b"{'descr': [], 'fortran_order': 3}",
        b"{[]: 1}",
        b"(" * 3000,
        b"'" * 31,
        b"__import__('os').system('true')",
        b"",
    ],
)
def test_a_lying_or_broken_header_takes_no_memory_and_runs_nothing(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(header))
    with pytest.raises(MediaFileError, match=r"a.npy: "):
        waveform.read_npy(tmp_path / "a.npy", 10)


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_an_error_that_names_the_file(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(header, size=8))
    with pytest.raises(MediaFileError, match=r"a.npy: "):
        waveform.read_npy(tmp_path / "a.npy", 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_must_be_finite(bad: float) -> None:
    samples = np.zeros(10, np.float32)
    assert waveform.require_finite(Path("a.npy"), samples) is samples
    samples[7] = bad
    with pytest.raises(MediaFileError, match=r"a.npy: holds samples that are not finite numbers"):
        waveform.require_finite(Path("a.npy"), samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_wav_files_are_read_at_their_own_rate(tmp_path: Path, subtype: str) -> None:
    tone = _tone(16_000)
    soundfile.write(tmp_path / "a.wav", tone, 16_000, subtype=subtype)
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert (rate, samples.dtype, samples.shape) == (16_000, np.float32, tone.shape)
    assert np.abs(samples - tone).max() < (0.02 if subtype == "ULAW" else 1e-4)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = _tone(16_000), _tone(16_000, pitch=660)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(waveform.read_sound_file(tmp_path / "a.wav")[0], (left + right) / 2, atol=1e-7)


def test_a_wav_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.wav", _tone(8_000), 8_000)
    whole = (tmp_path / "whole.wav").read_bytes()
    for size in (1, 11, 12, 30, 44, 45, 1000, len(whole) // 2, len(whole) - 2):
        (tmp_path / "a.wav").write_bytes(whole[:size])
        with pytest.raises(MediaFileError, match=r"a.wav: (is cut off|cannot be decoded|holds no samples)"):
            waveform.read_sound_file(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_a_wav_written_to_a_pipe_has_no_size_in_its_header_and_is_read(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", _tone(8_000), 8_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert len(waveform.read_sound_file(tmp_path / "a.wav")[0]) == 80_000


def test_sound_files_that_are_none_or_hold_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), 8_000)
    with pytest.raises(MediaFileError, match=r"nothing.wav: holds no samples"):
        waveform.read_sound_file(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(MediaFileError, match=r"text.wav: cannot be decoded: Format not recognised"):
        waveform.read_sound_file(tmp_path / "text.wav")


def test_a_recording_far_too_long_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((5000, 2)), 8_000)
    monkeypatch.setattr(waveform, "MAX_SAMPLES", 9_999)
    with pytest.raises(MediaFileError, match=r"a.wav: holds 5000 samples in 2 channels: more than 9999"):
        waveform.check_sound_file(tmp_path / "a.wav")


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 32_000), (16_000, 32_000), (32_000, 16_000), (48_000, 32_000)])
def test_resampling_keeps_a_tone_and_agrees_with_another_resampler(rate: int, wanted: int) -> None:
    resampled = waveform.resample(Path("a.wav"), _tone(rate), rate, wanted)
    assert (resampled.shape, resampled.dtype) == ((10 * wanted,), np.float32)
    inner = slice(wanted, -wanted)  # both ring at the ends, each in its own way
    np.testing.assert_allclose(resampled[inner], _tone(wanted)[inner], atol=2e-5)
    other = scipy.signal.resample_poly(_tone(rate), wanted, rate)
    np.testing.assert_allclose(resampled[inner], other[inner], atol=2e-3)


def test_frequencies_that_the_new_rate_cannot_hold_are_removed() -> None:
    resampled = waveform.resample(Path("a.wav"), _tone(32_000, pitch=12_000), 32_000, 16_000)
    assert np.abs(resampled[16_000:-16_000]).max() < 1e-4


def test_the_wanted_rate_changes_nothing() -> None:
    tone = _tone(32_000)
    assert waveform.resample(Path("a.wav"), tone, 32_000, 32_000) is tone


@pytest.mark.parametrize(("rate", "count"), [(31_999, 10), (44_101, 10), (1, 64_000), (2**31 - 1, 10)])
def test_a_rate_that_would_take_gigabytes_is_refused(rate: int, count: int) -> None:
    with pytest.raises(MediaFileError, match=rf"a.wav: has a rate of {rate} Hz, which cannot be brought to 32000 Hz"):
        waveform.resample(Path("a.wav"), np.zeros(count, np.float32), rate, 32_000)
