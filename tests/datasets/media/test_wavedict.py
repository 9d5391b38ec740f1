"""AVS.npy: what np.save writes is read, and nothing in any file is ever executed."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.datasets.media import arrays, pickled, wavedict
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.wavedict import WaveDict, WaveFiles

COUNT = 50


@pytest.fixture(autouse=True, scope="module")
def short_seconds() -> Iterator[None]:
    """A second of 50 samples, so that damage hits more than samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "NPY_RATE", COUNT)
        yield


def waves(dtype: str = "f4") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"video{number}.wav": rng.standard_normal(COUNT).astype(dtype) for number in range(4)}


def as_npy(payload: bytes, *, version: tuple[int, int] = (1, 0)) -> bytes:
    """A pickle behind the header of a 0-dimensional array of objects."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    return (
        b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(header)) + header + payload
    )


def as_array(content: object, protocol: int = 4) -> bytes:
    array = np.empty((), dtype=object)
    array[()] = content
    return pickle.dumps(array, protocol)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "AVS.npy"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_what_numpy_saves_is_read(path: Path, dtype: str) -> None:
    saved = waves(dtype)
    np.save(path, np.array(saved, dtype=object), allow_pickle=True)
    found = WaveDict(path)
    for key, samples in saved.items():
        assert found.read(key, 1).dtype == np.float32
        assert np.array_equal(found.read(key, 1), samples.astype(np.float32))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_the_pickles_of_numpy_1_and_2_are_read(
    path: Path, core: bytes, protocol: int, version: tuple[int, int]
) -> None:
    payload = as_array(waves(), protocol)
    written = b"numpy._core.multiarray"
    assert written in payload
    if protocol == 4:  # a length stands before the name
        written, core = bytes([len(written)]) + written, bytes([len(core)]) + core
    path.write_bytes(as_npy(payload.replace(written, core), version=version))
    found = WaveDict(path)
    assert np.array_equal(found.read("video1.wav", 1), waves()["video1.wav"])


@pytest.mark.parametrize("protocol", [3, 4])
def test_whatever_lies_in_memory_is_read_as_numpy_does(path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    saved = {
        "row": rng.standard_normal((1, COUNT)),
        "column": rng.standard_normal((COUNT, 1)),
        "every other": rng.standard_normal(2 * COUNT)[::2],
        "backwards": rng.standard_normal(COUNT)[::-1],
        "channels by columns": np.asfortranarray(rng.standard_normal((2, COUNT))),
        "channels by rows": rng.standard_normal((2, COUNT)),
        "transposed": rng.standard_normal((2, COUNT)).T,
        "big-endian": np.asfortranarray(rng.standard_normal((COUNT, 3)).astype(">f4")),
        "integers": rng.integers(-32_768, 32_767, COUNT, np.int16),
    }
    path.write_bytes(as_npy(as_array(saved, protocol)))
    loaded = np.load(path, allow_pickle=True).item()
    for key, array in loaded.items():
        expected = array.reshape(-1) if array.size == COUNT else array.mean(axis=int(np.argmin(array.shape)))
        scale = 32_768 if array.dtype == np.int16 else 1
        np.testing.assert_allclose(WaveDict(path).read(key, 1), expected / scale, atol=1e-6, err_msg=key)


def test_a_view_of_several_seconds_in_column_order(path: Path) -> None:
    seconds = np.asfortranarray(np.random.default_rng(0).standard_normal((5, COUNT)))
    np.save(path, np.array({"a.wav": seconds}, dtype=object))
    np.testing.assert_array_equal(WaveDict(path).read("a.wav", 5), seconds.reshape(-1).astype(np.float32))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.arange(COUNT), "'a.wav' is not an array of floats or 16-bit integers"),
        (np.ones(2 * COUNT), r"'a.wav' has shape \(100,\): mono of 2.000 s at 50 Hz, not of 1 s"),
        (np.ones((2, COUNT // 2)), r"'a.wav' has shape \(2, 25\): channels of 0.500 s at 50 Hz, not of 1 s"),
        (np.ones((2, 5, 5)), r"'a.wav' has shape \(2, 5, 5\): neither \[samples\]"),
        (np.ones(COUNT, complex), "'a.wav' is not an array of floats"),
        (np.array([None] * COUNT), "'a.wav' is not an array of floats"),
    ],
)
def test_arrays_of_another_kind_are_refused(path: Path, value: np.ndarray, message: str) -> None:
    path.write_bytes(as_npy(as_array({"a.wav": value})))
    with pytest.raises(MediaFileError, match=message):
        WaveDict(path).read("a.wav", 1)


def test_a_recording_that_is_not_there(path: Path) -> None:
    path.write_bytes(as_npy(as_array(waves())))
    with pytest.raises(MediaFileError, match=r"AVS.npy: has no recording 'nobody.wav'"):
        WaveDict(path).read("nobody.wav", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is not a dict of arrays: the array holds a list"),
        ({"a.wav": [0]}, "'a.wav' is a list"),
        ({"a.wav": 0.5}, "the opcode BINFLOAT at byte"),
        ({"a.wav": "x"}, "'a.wav' is a str"),
        ({1: np.ones(2)}, "a int where a name should be"),
    ],
)
def test_other_contents_are_refused(path: Path, content: object, message: str) -> None:
    path.write_bytes(as_npy(as_array(content)))
    with pytest.raises(MediaFileError, match=message):
        WaveDict(path)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


class BuildsWith:
    """Pickles as a harmless call whose state is set by ``__setstate__``."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[object, tuple[object, ...], object]:
        return np.dtype, ("f4",), self.state


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles that would create ``marker`` if anything of them ran."""
    shell = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    raw_system = f"cos\nsystem\n(S'{shell}'\ntR.".encode()
    return {
        "os.system": as_array({"a.wav": Calls(os.system, shell)}),
        "os.system, protocol 2": as_array({"a.wav": Calls(os.system, shell)}, 2),
        "os.system, protocol 0": as_array({"a.wav": Calls(os.system, shell)}, 0),
        "builtins.exec": as_array({"a.wav": Calls(builtins.exec, code)}),
        "builtins.eval": as_array({"a.wav": Calls(builtins.eval, code)}),
        "subprocess": as_array({"a.wav": Calls(subprocess.check_call, ["touch", str(marker)])}),
        "as a key": as_array({Calls(os.system, shell): np.ones(3)}),
        "in a list of objects": as_array([{"a.wav": Calls(os.system, shell)}]),
        "not in an array": pickle.dumps(Calls(os.system, shell)),
        "numpy's own loader": as_array({"a.wav": Calls(np.load, str(marker), None, True)}),
        "pickle in pickle": as_array({"a.wav": Calls(pickle.loads, pickle.dumps(Calls(os.system, shell)))}),
        "by hand, GLOBAL": raw_system,
        "by hand, INST": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "by hand, OBJ": f"(cos\nsystem\nS'{shell}'\no.".encode(),
        "by hand, NEWOBJ": b"\x80\x02cos\nsystem\n(S'" + shell.encode() + b"'\nt\x81.",
        "by hand, EXT1": b"\x80\x02\x82\x01.",
        "by hand, PERSID": b"Pmarker\n.",
        "under the name of numpy": b"cnumpy.core.multiarray\n__builtins__\n.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        "a state that runs": as_array({"a.wav": BuildsWith({"__setstate__": Calls(os.system, shell)})}),
    }


@pytest.mark.parametrize("name", list(attacks(Path("x"))))
def test_nothing_in_a_malicious_file_runs(tmp_path: Path, path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path.write_bytes(as_npy(attacks(marker)[name]))
    with pytest.raises(MediaFileError, match=r"AVS.npy: is not a dict of arrays") as caught:
        WaveDict(path)
    assert not marker.exists()
    assert "audio_wav" in str(caught.value.hint)


def test_the_attacks_do_run_where_pickles_are_loaded(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    run = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    for name in ("os.system", "builtins.exec", "by hand, GLOBAL", "by hand, INST", "by hand, OBJ"):
        marker = tmp_path / name.replace(" ", "-").replace(",", "")
        subprocess.run([sys.executable, "-c", run], input=attacks(marker)[name], check=False, capture_output=True)
        assert marker.exists(), name


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "the pickle has no end|damaged pickle"),
        (b".", "it ends with 0 values"),
        (b"N.", "the pickle holds something else"),
        (b"t.", "damaged pickle"),
        (b"(.", "it ends with 1 values"),
        (b"\x80\x04N\x85" + b"h\x07.", "damaged pickle"),
        (b"NNs.", "damaged pickle"),
        (b"NNa.", "items for something that is not a list"),
        (b"}NN(s.", "a mark where a value should be"),
        (b"NNb.", "the state of something that is no array"),
        (b"NNR.", "a call of something that makes no array"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "damaged pickle"),
        (b"r\xff\xff\xff\xff.", "damaged pickle"),
        (b"X\xff\xff\xff\x0ex.", "one array of 251658239 bytes"),
        (b"X\x00\x20\x00\x00" + b"x" * 8192 + b".", "a name of 8192 characters"),
    ],
)
def test_damaged_pickles_are_refused(path: Path, payload: bytes, message: str) -> None:
    path.write_bytes(as_npy(payload))
    with pytest.raises(MediaFileError, match=message):
        WaveDict(path)


def test_files_that_are_no_npy_of_one_object(path: Path) -> None:
    np.save(path, np.ones(3))
    with pytest.raises(MediaFileError, match=r"its .npy header is not that of one pickled object"):
        WaveDict(path)
    path.write_bytes(b"RIFF" + b"\0" * 40)
    with pytest.raises(MediaFileError, match=r"it is no .npy file"):
        WaveDict(path)
    path.write_bytes(b"\x93NUMPY\x02")
    with pytest.raises(MediaFileError, match=r"it is no .npy file"):
        WaveDict(path)
    path.unlink()
    with pytest.raises(MediaFileError, match="is missing"):
        WaveDict(path)


def test_size_and_length_are_capped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(as_npy(as_array(waves())))
    monkeypatch.setattr(wavedict, "MAX_FILE_BYTES", 100)
    with pytest.raises(MediaFileError, match=r"is \d+ bytes long: more than 100"):
        WaveDict(path)
    monkeypatch.undo()
    monkeypatch.setattr(pickled, "MOST_OPCODES", 20)
    with pytest.raises(MediaFileError, match="more than 20 opcodes"):
        WaveDict(path)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x04)" + b"\x85" * 90_000 + b".",
        b"\x80\x04]\x94" + b"(" + b"h\x00" * 45_000 + b"e.",
        b"\x80\x04]\x94" + b"h\x00a" * 30_000 + b".",
        b"\x80\x02cnumpy\nndarray\n0cnumpy.core.multiarray\n_reconstruct\n)R(K\x01("
        + b"J\xff\xff\xff\x7f" * 90_000
        + b"tcnumpy\ndtype\n)RI0\nK\x00tb.",
        b"\x80\x04}" + b"".join(b"\x8c\x06%06dNs" % number for number in range(24_000)) + b".",
    ],
    ids=["deep", "many references", "itself in itself", "a shape of many sides", "many keys"],
)
def test_a_bomb_is_soon_done_with(path: Path, payload: bytes) -> None:
    path.write_bytes(as_npy(payload))
    started = time.process_time()
    with pytest.raises(MediaFileError, match="is not a dict of arrays"):
        WaveDict(path)
    assert time.process_time() - started < 10


def test_a_file_that_is_replaced_while_others_of_its_recordings_are_read(path: Path) -> None:
    """By one of the same size, so that each recording's bytes would be there, but be another one's."""
    values = waves()
    path.write_bytes(as_npy(as_array(values)))
    found = WaveDict(path)
    moved = dict(zip(values, [*list(values.values())[1:], next(iter(values.values()))], strict=True))
    path.with_name("new").write_bytes(as_npy(as_array(moved)))
    path.with_name("new").replace(path)
    key = next(iter(values))
    with pytest.raises(MediaFileError, match="has changed since this run began"):
        found.read(key, 1)
    np.testing.assert_array_equal(WaveDict(path).read(key, 1), np.float32(moved[key]))


def test_a_file_that_shrinks_while_it_is_read(path: Path) -> None:
    path.write_bytes(as_npy(as_array(waves())))
    found = WaveDict(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MediaFileError, match=r"has changed while it was read: 'video3.wav' is cut off"):
        found.read("video3.wav", 1)


def test_a_file_is_walked_once_for_all_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(as_npy(as_array(waves())))
    bad = path.with_name("bad.npy")
    bad.write_bytes(b"x")
    walked = []
    monkeypatch.setattr(wavedict, "WaveDict", lambda path: walked.append(path) or WaveDict(path))
    files = WaveFiles()

    def ask() -> None:
        files.open(path).check("video0.wav", 1)
        with pytest.raises(MediaFileError, match=r"bad.npy: is not a dict of arrays: it is no .npy file"):
            files.open(bad)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(walked) == [path, bad]


def judge(content: bytes) -> None:
    """The file gives arrays or a MediaFileError, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "AVS.npy"
        path.write_bytes(content)
        errors = []
        try:
            found = WaveDict(path)
            for key in waves():
                assert found.read(key, 1).shape == (COUNT,)
        except MediaFileError as error:
            errors.append(error)
        assert all(str(path) in error.message for error in errors)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_pickle_gives_arrays_or_an_error(payload: bytes) -> None:
    judge(as_npy(payload))
    judge(payload)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 10**6))
def test_any_damage_gives_arrays_or_an_error(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(as_npy(as_array(waves())))
    for place, value in changes:
        content[place % len(content)] = value
    judge(bytes(content))
    judge(bytes(content[: cut % len(content)]))
