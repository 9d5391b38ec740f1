"""Weights files from elsewhere: told by their content, read without trust."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import defaultdict
from enum import Enum
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.errors import WeightsError
from mettle_cache.weights_file import read_weights_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.steps": torch.tensor(3)}


class Color(Enum):
    RED = 1


class Malicious:
    def __init__(self, target, function=os.mkdir):
        self.target, self.function = target, function

    def __reduce__(self):
        return self.function, (str(self.target),)


@pytest.mark.parametrize("plain", [False, True])
def test_a_malicious_pickle_is_refused_and_nothing_runs(plain, tmp_path):
    path, target = tmp_path / "evil.pth", tmp_path / "made by the pickle"
    if plain:
        path.write_bytes(pickle.dumps({"state_dict": Malicious(target)}))
    else:
        torch.save({"state_dict": STATE, "extra": Malicious(target)}, path)
    with pytest.raises(
        WeightsError, match=r"evil\.pth is refused: it holds pickled objects.*nothing of it was run"
    ) as e:
        read_weights_file(path)
    assert not target.exists()
    assert "safetensors" in (e.value.hint or "")


EXTRAS = {
    "arguments": Namespace(lr=1e-3, out=PurePosixPath("runs")),
    "numpy": {"best": np.float64(71.5), "epoch": np.int64(3), "order": np.arange(4)},
    "mapping": defaultdict(list, {"loss": [1.0]}),
    "enum": [Color.RED],
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_objects_beside_the_weights_are_left_out(extra, tmp_path):
    torch.save({"model": STATE, "extra": EXTRAS[extra]}, tmp_path / "w.pth")
    read = read_weights_file(tmp_path / "w.pth")["model"]
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_a_function_beside_the_weights_is_not_called(tmp_path):
    (tmp_path / "kept").mkdir()
    torch.save({"model": STATE, "extra": Malicious(tmp_path / "kept", shutil.rmtree)}, tmp_path / "w.pth")
    assert read_weights_file(tmp_path / "w.pth")["model"].keys() == STATE.keys()
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz", "w", "w.PTH.TAR"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_content_counts_and_not_the_name(kind, name, tmp_path):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    read = read_weights_file(path)
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.98])
def test_a_truncated_file_is_refused(suffix, kept, tmp_path):
    path = tmp_path / f"cut{suffix}"
    state = {f"layer{i}": torch.randn(64, 64) for i in range(4)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=r"cut\.\w+ is (damaged or incomplete|refused|empty)"):
        read_weights_file(path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (LFS, r"is a git-lfs pointer \(fetch the file: git lfs pull\), not weights"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML or SVG document"),
        (
            json.dumps({"metadata": {}, "weight_map": {"a": "1.bin"}}).encode(),
            "is the index of weights that are spread",
        ),
        (b'{"message": "Not Found"}', "is a JSON document"),
        (gzip.compress(b"weights", mtime=0), "is compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"GGUF" + bytes(100), "is a GGUF file"),
        (bytes(257) + b"ustar\x00" + bytes(100), "is a tar archive"),
        (bytes(100), "is all zeros at its start"),
        (b"just some text", "is text"),
        (bytes(range(1, 90)), r"is of another kind \(01 02 03 04 05 06 07 08 at its start\), not weights"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.ckpt"])
def test_what_is_no_weights_file_is_named_for_what_it_is(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as refused:
        read_weights_file(tmp_path / name)
    assert refused.value.hint


def test_archives_of_other_things_are_named(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    (tmp_path / "w.npz").rename(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"is a NumPy archive \(a\.npy\)"):
        read_weights_file(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"is a zip archive without weights \(readme\.txt\)"):
        read_weights_file(tmp_path / "z.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_named_and_not_run(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match="is a TorchScript program, which would have to be run"):
        read_weights_file(tmp_path / "w.pt")


def test_a_list_and_a_whole_model_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, not a dictionary of tensors"):
        read_weights_file(tmp_path / "list.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="holds pickled objects other than tensors"):
        read_weights_file(tmp_path / "model.pth")


def test_a_folder_names_what_lies_in_it(tmp_path):
    with pytest.raises(WeightsError, match="is a folder") as refused:
        read_weights_file(tmp_path)
    assert "no weights file" in refused.value.hint
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a folder") as refused:
        read_weights_file(tmp_path)
    assert refused.value.hint == f"give the file: {tmp_path / 'pytorch_model.bin'}"


def test_of_many_files_in_a_folder_a_few_are_named(tmp_path):
    for number in range(1000):
        (tmp_path / f"epoch-{number:04d}.pth").touch()
    with pytest.raises(WeightsError, match="is a folder") as refused:
        read_weights_file(tmp_path)
    assert "epoch-0004.pth and 995 more" in refused.value.hint
    assert len(refused.value.hint) < 200


def test_an_archive_of_nothing_is_named(tmp_path):
    zipfile.ZipFile(tmp_path / "w.pth", "w").close()
    with pytest.raises(WeightsError, match="is an empty zip archive"):
        read_weights_file(tmp_path / "w.pth")


def test_a_missing_file_names_what_lies_beside_it(tmp_path):
    torch.save(STATE, tmp_path / "swin_large_1k.pth")
    for name in ("swin_large_22k.pth", "unlike.bin"):
        with pytest.raises(WeightsError, match=rf"{name} does not exist") as refused:
            read_weights_file(tmp_path / name)
        assert "in that folder: swin_large_1k.pth" in refused.value.hint
    with pytest.raises(WeightsError, match="does not exist") as refused:
        read_weights_file(tmp_path / "nowhere" / "w.pth")
    assert "there is no folder" in refused.value.hint


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="is no regular file"):
        read_weights_file(tmp_path / "w.pth")


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "weights.pth")
    assert set(read_weights_file(Path("~/weights.pth"))) == set(STATE)


def _deflated(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))


def _bombs(folder):
    """Small files that stand for gigabytes."""
    torch.save({"a": torch.zeros(1).expand(1 << 30)}, folder / "stride0.pt")
    shared = torch.zeros(1 << 20, dtype=torch.float16)
    torch.save({f"a{number}": shared for number in range(2000)}, folder / "shared.pt")
    torch.save({"a": torch.zeros(1 << 26)}, folder / "plain.pt")
    _deflated(folder / "plain.pt", folder / "deflated.pt")
    torch.save({"a": torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))}, folder / "sparse.pt")
    torch.save({"a": torch.empty(1 << 40, device="meta")}, folder / "meta.pt")
    (folder / "plain.pt").unlink()
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_small_files_that_stand_for_gigabytes_are_refused_within_memory(tmp_path):
    names = [str(path) for path in _bombs(tmp_path)]
    assert len(names) == 5
    script = """
import resource, sys
from pathlib import Path
from mettle_cache.errors import WeightsError
from mettle_cache.statedict import read_state_dict
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        read_state_dict(Path(name), ["a"])
    except WeightsError as error:
        print(error.message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    *refusals, grown = done.stdout.splitlines()
    assert len(refusals) == 5, done.stdout
    assert "its content is compressed" in refusals[0]
    assert int(grown) < 200_000  # KiB


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_is_refused_or_leaves_a_dictionary(kind, tmp_path):
    path = tmp_path / "w.bin"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    whole, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(1, len(content))])])
        try:
            assert isinstance(read_weights_file(path), dict)
        except WeightsError:
            refused += 1
    assert refused > 20
