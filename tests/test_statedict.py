"""Weights files from elsewhere: read without trust."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.errors import WeightsError
from mettle_cache.statedict import explain_mismatch, read_state_dict

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.steps": torch.tensor(3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
def test_wrappers_and_prefixes_come_off(wrap, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(STATE), path)
    state = read_state_dict(path)
    assert set(state) == set(STATE)
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


def test_halves_become_floats_and_integers_stay(tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() if value.is_floating_point() else value for key, value in STATE.items()}, path)
    state = read_state_dict(path)
    assert state["a.weight"].dtype == torch.float32
    assert state["a.steps"].dtype == torch.int64


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


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
        read_state_dict(path)
    assert not target.exists()
    assert "safetensors" in (e.value.hint or "")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.98])
def test_a_truncated_file_is_refused(suffix, kept, tmp_path):
    path = tmp_path / f"cut{suffix}"
    state = {f"layer{i}": torch.randn(64, 64) for i in range(4)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=r"cut\.\w+ is (damaged or incomplete|refused)"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.pth", [1, 2], "holds a list, not a dictionary of tensors"),
        ("empty.pth", {"state_dict": {}}, "holds no tensors"),
        ("nan.pth", {"a": torch.tensor([0.0, torch.nan])}, "not finite numbers, first in 'a'"),
        ("weights.npz", {"a": torch.zeros(1)}, r"'\.npz' is no kind that is read here"),
    ],
)
def test_what_holds_no_usable_weights_is_refused(name, content, message, tmp_path):
    torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / name)


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "weights.pth")
    assert set(read_state_dict(Path("~/weights.pth"))) == set(STATE)


@pytest.mark.parametrize("name", ["no such file.pth", "."])
def test_a_missing_file_or_a_folder_is_refused(name, tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        read_state_dict(tmp_path / name)


def test_a_mismatch_names_a_few_keys():
    expected = {f"k{i}": torch.zeros(1) for i in range(5)} | {"w": torch.zeros(2, 2)}
    text = explain_mismatch(expected, {"w": torch.zeros(3), "other": torch.zeros(1)}, "weights file f")
    assert text == (
        "weights file f does not fit (5 missing: k0, k1, k2, ...; 1 unexpected: other; "
        "1 of another shape: w (3,) where (2, 2) is wanted)"
    )
