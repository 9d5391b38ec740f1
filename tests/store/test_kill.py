"""Killed at any moment and run again, an extraction ends bit for bit like one that was never interrupted."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mettle_cache.errors import MettleError
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from tests.store.extract_script import main as write
from tests.store.tiny import clip_tokens, contents, make_spec, write_store

ROOT = Path(__file__).parents[2]
CLIPS = 24
FAILED = [clip for clip in range(CLIPS) if clip % 7 == 5]


def start(path, part=0, of=1):
    command = [sys.executable, "-m", "tests.store.extract_script", str(path), str(CLIPS), str(part), str(of)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    return process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    write_store(path, make_spec(clips=CLIPS), failed=FAILED)
    return contents(path)


def assert_nothing_wrong_can_be_read(path):
    """Whatever a reader gives of a store that is being written is what was encoded."""
    store = TokenStore.open(path, allow_unfinished=True)
    for clip in range(CLIPS):
        try:
            batch = store.read([clip])
        except MettleError:
            assert store.statuses[clip] != "ok"
            continue
        for name, tokens in clip_tokens(clip).items():
            assert torch.equal(batch.layers[name].codes[0], tokens.codes)


def kill_and_resume(path, uninterrupted, rounds, seed, number):
    chance = random.Random(seed)
    for _ in range(rounds):
        process = start(path)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(number)
        process.communicate()
        assert_nothing_wrong_can_be_read(path)
        assert verify_store(path, deep=True).problems == ()
    write(str(path), str(CLIPS), "0", "1")
    assert contents(path) == uninterrupted


@pytest.mark.parametrize(
    ("number", "rounds"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_extraction_resumes_to_the_same_bytes(tmp_path, uninterrupted, number, rounds):
    kill_and_resume(tmp_path / "s.zarr", uninterrupted, rounds=rounds, seed=number, number=number)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_many_times(tmp_path, uninterrupted, seed):
    kill_and_resume(tmp_path / "s.zarr", uninterrupted, rounds=5, seed=seed, number=signal.SIGKILL)


def test_two_parts_at_once_make_the_store_of_one_serial_run(tmp_path, uninterrupted):
    """One of them in this process."""
    with start(tmp_path / "s.zarr", 0, 2) as process:
        write(str(tmp_path / "s.zarr"), str(CLIPS), "1", "2")
        process.communicate()
    assert process.returncode == 0
    assert contents(tmp_path / "s.zarr") == uninterrupted
