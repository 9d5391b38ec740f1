"""Arrays that are recordings: what shape and type leave no doubt about is read, the rest is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.datasets.media import arrays
from mettle_cache.datasets.media.fault import MediaFileError

TEN_SECONDS = 320_000


@pytest.mark.parametrize("shape", [(320_000,), (1, 320_000), (10, 32_000), (320_000, 1), (10, 1, 32_000)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_arrays_of_any_shape_that_views_to_ten_seconds(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.linspace(-1, 1, TEN_SECONDS).astype(dtype).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    samples, rate = arrays.read_npy(tmp_path / "a.npy", 10)
    assert (rate, samples.dtype, samples.shape) == (32_000, np.float32, (TEN_SECONDS,))
    assert samples.flags.writeable
    np.testing.assert_array_equal(samples, values.reshape(-1).astype(np.float32))


def test_column_order_on_disk_is_not_column_order_in_time(tmp_path: Path) -> None:
    values = np.arange(TEN_SECONDS, dtype=np.float32).reshape(10, 32_000)
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    np.testing.assert_array_equal(arrays.read_npy(tmp_path / "a.npy", 10)[0], values.reshape(-1))


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("count", [288_000, 319_999, 352_000])
def test_one_row_within_a_second_of_ten_is_taken_as_it_is(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, count), np.float32))
    assert arrays.read_npy(tmp_path / "a.npy", 10)[0].shape == (count,)


@pytest.mark.parametrize("segments", [1, 2, 5, 10])
@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100, 48_000])
def test_no_row_of_another_rate_passes_for_one_of_32_khz(tmp_path: Path, segments: int, rate: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros(segments * rate, np.float32))
    with pytest.raises(MediaFileError, match=rf"mono of .* s at 32000 Hz, not of {segments} s"):
        arrays.read_npy(tmp_path / "a.npy", segments)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("shape", [(2, TEN_SECONDS), (TEN_SECONDS, 2), (6, 319_000), (1, TEN_SECONDS, 2)])
def test_channels_lie_along_either_side_and_are_averaged(tmp_path: Path, shape: tuple[int, ...], fortran: bool) -> None:
    values = _noise(*shape)
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if fortran else values)
    sides = np.squeeze(values)
    expected = sides.mean(axis=int(np.argmin(sides.shape)))
    np.testing.assert_allclose(arrays.read_npy(tmp_path / "a.npy", 10)[0], expected, atol=1e-6)


def test_two_seconds_of_the_peers_view_are_no_stereo(tmp_path: Path) -> None:
    values = _noise(2, 32_000)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(arrays.read_npy(tmp_path / "a.npy", 2)[0], values.reshape(-1))


@pytest.mark.parametrize("dtype", ["<i2", ">i2"])
def test_16_bit_integers_are_scaled(tmp_path: Path, dtype: str) -> None:
    values = np.array([-32_768, -1, 0, 1, 32_767] * 64_000, dtype)
    np.save(tmp_path / "a.npy", values)
    samples, _ = arrays.read_npy(tmp_path / "a.npy", 10)
    np.testing.assert_array_equal(samples, values / 32_768)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.zeros(160_000, np.float32), r"has shape \(160000,\): mono of 5.000 s at 32000 Hz, not of 10 s"),
        (np.zeros(441_000, np.float32), r"has shape \(441000,\)"),
        (np.zeros((2, 160_000), np.float32), r"has shape \(2, 160000\): channels of 5.000 s at 32000 Hz, not of 10 s"),
        (np.zeros((160_000, 2), np.float32), r"has shape \(160000, 2\): channels of 5.000 s"),
        (np.zeros((20, 16_000), np.float32), r"has shape \(20, 16000\): neither \[samples\], \[channels, samples\]"),
        (np.zeros((32_000, 10), np.float32), r"has shape \(32000, 10\): neither .* nor \(10, 32000\)"),
        (np.zeros((2, 10, 32_000), np.float32), r"has shape \(2, 10, 32000\): neither"),
        (np.zeros((12, 320_000), np.float16), r"has shape \(12, 320000\): neither"),
        (np.zeros(0, np.float32), r"is not a plain .npy array|has shape \(0,\): mono of 0.000 s"),
        (np.zeros((0, 320_000), np.float32), r"is not a plain .npy array|has shape \(0, 320000\): neither"),
        (np.float32(0), r"has shape \(\): neither"),
        (np.zeros(320_000, np.int32), "holds int32, not floats or 16-bit integers"),
        (np.zeros(320_000, np.uint8), "holds uint8, not floats or 16-bit integers"),
        (np.zeros(320_000, np.uint16), "holds uint16, not floats or 16-bit integers"),
        (np.zeros(320_000, bool), "holds bool, not floats or 16-bit integers"),
        (np.zeros(320_000, np.complex64), "holds complex64, not floats"),
        (np.zeros(320_000, [("left", "f4"), ("right", "f4")]), r"holds \[.*left.*\], not floats"),
        (np.full(320_000, "x"), "holds <U1, not floats"),
    ],
)
def test_another_array_is_refused(tmp_path: Path, values: np.ndarray, what: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(MediaFileError, match=f"a.npy: ({what})"):
        arrays.read_npy(tmp_path / "a.npy", 10)


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
    for name, what in {"a": "a Python pickle", "b": "holds pickled objects, which", "c": "a zip archive"}.items():
        with pytest.raises(MediaFileError, match=rf"{name}.npy: is not a plain .npy array: it .*{what}"):
            arrays.read_npy(tmp_path / f"{name}.npy", 10)
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0.3, 0.999])
def test_an_array_that_is_cut_off_says_so(tmp_path: Path, keep: float) -> None:
    np.save(tmp_path / "a.npy", np.zeros(TEN_SECONDS, np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    held = int(keep * len(content)) - 128
    (tmp_path / "a.npy").write_bytes(content[: 128 + held])
    with pytest.raises(MediaFileError, match=rf"its header promises 1280000 bytes of values, {held} are there"):
        arrays.read_npy(tmp_path / "a.npy", 10)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a git-lfs pointer"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "it is a WAV recording"),
        (b"\x93NUMPY\x01\0\x06\0hello\n", "its header is damaged"),
        (b"\x93NUMPY\x07\0" + bytes(50), "its header is damaged"),
        (b"\x93NUM", "it is of another kind"),
    ],
)
def test_what_is_no_array_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(MediaFileError, match=rf"a.npy: is not a plain .npy array: {what}"):
        arrays.open_npy(tmp_path / "a.npy", 10)


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
        arrays.read_npy(tmp_path / "a.npy", 10)


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_an_error_that_names_the_file(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(header, size=8))
    with pytest.raises(MediaFileError, match=r"a.npy: "):
        arrays.read_npy(tmp_path / "a.npy", 10)
