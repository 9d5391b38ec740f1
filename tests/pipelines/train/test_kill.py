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

from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from tests.pipelines.train.train_script import RECIPE

ROOT = Path(__file__).parents[3]


def start(store, out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pipelines.train.train_script", str(store), str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def finish(store, out):
    child = start(store, out)
    child.communicate(timeout=300)
    assert child.returncode == 0


def kill_after(store, out, epochs, delay):
    """Start training and kill it ``delay`` seconds after its ``epochs``-th line."""
    child = start(store, out)
    for _ in range(epochs):
        child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    # on a busy machine this process may come too late, and the training has ended
    assert child.returncode in (-signal.SIGKILL, 0)


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 2).path


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(store, out)
    return out


def untimed(state):
    """The history without its speeds."""
    rows = state["history"]["rows"]
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in rows]


def assert_same(out, whole):
    assert (out / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    (ours, state), (theirs, expected) = (load_checkpoint(run / "last.safetensors") for run in (out, whole))
    assert len(untimed(state)) == RECIPE.train.epochs
    assert untimed(state) == untimed(expected)
    assert state["trainee"] == expected["trainee"]
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {entry.name for entry in out.iterdir()} == {entry.name for entry in whole.iterdir()}


@pytest.mark.slow
def test_killed_twice_and_resumed(store, tmp_path, whole):
    kill_after(store, tmp_path / "run", 2, 0.003)
    kill_after(store, tmp_path / "run", 5, 0.017)
    finish(store, tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_moments(store, tmp_path, whole, seed):
    moments = random.Random(seed)
    for _ in range(3):
        kill_after(store, tmp_path / "run", moments.randrange(0, 6), moments.random() * 0.05)
    finish(store, tmp_path / "run")
    assert_same(tmp_path / "run", whole)
