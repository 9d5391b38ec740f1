import errno
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mettle_cache.errors import NoRoomError, RunError
from mettle_cache.pipelines.train.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    load_model,
    restore_optimizer,
    save_checkpoint,
    under_prefix,
    with_prefix,
)


def test_tensors_and_state_come_back_exactly(tmp_path):
    tensors = {
        "a/b": torch.randn(3, 4),
        "half": torch.randn(2).half(),
        "step": torch.tensor(7.0),
        "view": torch.arange(12).reshape(3, 4).T,
    }
    state = {"history": [{"loss": 0.1 + 0.2, "score": None}], "best": 3}
    save_checkpoint(tmp_path / "x.safetensors", tensors, state)
    loaded, found = load_checkpoint(tmp_path / "x.safetensors")
    assert found == state
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_adam_goes_on_bit_for_bit(tmp_path):
    def stepped(count, model, optimizer, start=0):
        for i in range(start, start + count):
            torch.manual_seed(i)
            optimizer.zero_grad()
            model(torch.randn(8, 5)).square().mean().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        return model, torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)

    model, optimizer = fresh()
    stepped(6, model, optimizer)
    half, half_optimizer = fresh()
    stepped(3, half, half_optimizer)
    slots, groups = flatten_optimizer(half_optimizer)
    save_checkpoint(
        tmp_path / "x", with_prefix("model", half.state_dict()) | with_prefix("optimizer", slots), {"groups": groups}
    )
    tensors, state = load_checkpoint(tmp_path / "x")
    other, other_optimizer = fresh()
    load_model(other, under_prefix("model", tensors), where=tmp_path)
    restore_optimizer(other_optimizer, under_prefix("optimizer", tensors), state["groups"])
    stepped(3, other, other_optimizer, start=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["empty", "short", "garbage", "pickle", "foreign", "header"])
def test_damaged_and_foreign_files_are_refused(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.zeros(100)}, {})
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "short": whole[:-1],
        "garbage": os.urandom(200),
        "pickle": pickle.dumps({"a": 1}),
        "header": b"\xff" * 8 + whole[8:],
    }
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(RunError, match=r"x.safetensors: (the checkpoint is damaged|this is not a checkpoint)"):
        load_checkpoint(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match=r"there is no checkpoint\n  next: the run has not finished an epoch"):
        load_checkpoint(tmp_path / "none")


def test_weights_of_another_model_are_refused(tmp_path):
    with pytest.raises(RunError, match="not those of this run's model: bias, extra"):
        load_model(nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}, where=tmp_path)
    with pytest.raises(RunError, match="not those of this run's model: weight"):
        load_model(nn.Linear(2, 3, bias=False), {"weight": torch.zeros(2, 3)}, where=tmp_path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, {"epoch": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoRoomError, match=r"no room at .*: 12 bytes were needed"):
        save_checkpoint(path, {"a": torch.zeros(3)}, {"epoch": 2})
    assert load_checkpoint(path)[1] == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_limit_that_safetensors_itself_meets_is_no_room_either(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(NoRoomError, match=r"no room at .*: 40,000 bytes were needed"):
            save_checkpoint(path, {"a": torch.zeros(10_000)}, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)[1] == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_same_content_gives_the_same_bytes_in_every_process(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path;"
        "from mettle_cache.pipelines.train.checkpoint import save_checkpoint;"
        "save_checkpoint(Path(sys.argv[1]), {'a': torch.ones(2), 'b': torch.zeros(1)}, {'epoch': 1, 'store': 'x'})"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "other"], check=True, cwd=Path(__file__).parents[3])
    save_checkpoint(tmp_path / "own", {"a": torch.ones(2), "b": torch.zeros(1)}, {"epoch": 1, "store": "x"})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "other").read_bytes()
