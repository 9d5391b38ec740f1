"""kill -9 at any moment, then resume: the numbers are those of a run that nothing happened to."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipelines.checkpoint import load_checkpoint
from pipelines.train import train_run
from tests.pipelines.train_script import RECIPE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 2).path


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train_run(store, recipe=RECIPE, out=out)
    return out


def kill_after(store, out, epochs, delay):
    """Start training and kill it ``delay`` seconds after its ``epochs``-th line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pipelines.train_script", str(store), str(out)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for _ in range(epochs):
        child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL


def assert_same(store, out, whole):
    resumed = train_run(store, recipe=RECIPE, out=out, resume=True)
    assert resumed.epochs == 30
    for name in ("best", "last"):
        (ours, state), (theirs, expected) = (load_checkpoint(run / f"{name}.safetensors") for run in (out, whole))
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        if name == "best":
            assert state == expected
    speeds = ("clips_per_second",)
    rows = [
        [{key: value for key, value in row.items() if key not in speeds} for row in history]
        for history in (resumed.history, load_checkpoint(whole / "last.safetensors")[1]["history"]["rows"])
    ]
    assert rows[0] == rows[1]
    assert not [entry.name for entry in out.iterdir() if entry.name.endswith(".partial")]


def test_killed_twice_and_resumed(store, tmp_path, whole):
    kill_after(store, tmp_path / "run", 2, 0.003)
    kill_after(store, tmp_path / "run", 5, 0.017)
    assert_same(store, tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_moments(store, tmp_path, whole, seed):
    moments = random.Random(seed)
    for _ in range(3):
        kill_after(store, tmp_path / "run", moments.randrange(0, 6), moments.random() * 0.05)
    assert_same(store, tmp_path / "run", whole)
