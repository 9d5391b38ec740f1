"""One writer a part, whatever the division; nothing to clear by hand after a death."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import StoreBusyError, UsageError
from mettle_cache.store.writing.locks import (
    LOCKS,
    PartLock,
    ShardLock,
    finish_lock,
    part_clips,
    part_range,
    sweep_locks,
)

HOLD = (
    "import sys, pathlib; from mettle_cache.store.writing.locks import PartLock\n"
    "lock = PartLock(pathlib.Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])), 10)\n"
    "print('held', flush=True); sys.stdin.read()\n"
)


@contextmanager
def another_process(store, part, of):
    """A process that holds a claim, until it is killed at the end."""
    command = [sys.executable, "-c", HOLD, str(store), str(part), str(of)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def first_half(tmp_path_factory):
    """A store whose clips 0 to 4 of 10 another process writes."""
    store = tmp_path_factory.mktemp("store")
    with another_process(store, 0, 2) as process:
        yield store, process.pid


@given(clips=st.integers(0, 10_000), of=st.integers(1, 100))
def test_parts_cover_every_clip_once_and_evenly(clips, of):
    parts = [part_range((number, of), clips) for number in range(of)]
    assert [clip for part in parts for clip in part] == list(range(clips))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(clips=st.integers(1, 10_000), each=st.integers(1, 300), of=st.integers(1, 40))
def test_parts_are_of_whole_shards(clips, each, of):
    parts = [part_clips((number, of), clips, each) for number in range(of)]
    assert [clip for part in parts for clip in part] == list(range(clips))
    shards = [{clip // each for clip in part} for part in parts]
    assert sum(map(len, shards)) == len(set().union(*shards))


@pytest.mark.parametrize("part", [(1, 1), (-1, 2), (3, 2), (0, 0)])
def test_a_part_that_is_not_there_is_refused(part):
    with pytest.raises(UsageError, match=f"part {part[0]}/{part[1]}"):
        part_range(part, 10)


@pytest.mark.parametrize("claim", [(0, 2), (0, 1), (1, 4), (0, 3)])
def test_a_second_process_is_told_who_holds_the_part(first_half, claim):
    store, pid = first_half
    owner = f"part-0-of-2 is being written by process {pid} on {socket.gethostname()}"
    with pytest.raises(StoreBusyError, match=owner):
        PartLock(store, claim, 10)
    assert os.listdir(store / LOCKS) == ["part-0-of-2.lock"]


@pytest.mark.parametrize("claim", [(1, 2), (2, 4), (2, 3)])
def test_parts_that_do_not_overlap_are_independent(first_half, claim):
    store, _ = first_half
    PartLock(store, claim, 10).release()
    assert os.listdir(store / LOCKS) == ["part-0-of-2.lock"]


def test_a_dead_owner_is_no_obstacle(tmp_path):
    with another_process(tmp_path, 0, 2):
        pass
    assert (tmp_path / LOCKS / "part-0-of-2.lock").exists()
    PartLock(tmp_path, (0, 1), 10).release()
    assert not (tmp_path / LOCKS).exists()


def test_a_released_claim_can_be_claimed_again(tmp_path):
    for _ in range(3):
        PartLock(tmp_path, (0, 1), 10).release()
    assert os.listdir(tmp_path) == []


def test_sweeping_spares_the_living(first_half):
    store, _ = first_half
    (store / LOCKS / "part-1-of-2.lock").touch()
    (store / LOCKS / "shard-7.lock").touch()
    sweep_locks(store)
    assert os.listdir(store / LOCKS) == ["part-0-of-2.lock"]


def test_a_shard_is_changed_by_one_at_a_time(tmp_path):
    order = []
    first, second = ShardLock(tmp_path, 3), ShardLock(tmp_path, 3)

    def wait_for_it():
        with second:
            order.append("second")

    with first:
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        with ShardLock(tmp_path, 4):
            order.append("another shard")
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["another shard", "first", "second"]
    assert os.listdir(tmp_path / LOCKS) == []


def test_finishing_leaves_no_lock(tmp_path):
    with finish_lock(tmp_path):
        assert os.listdir(tmp_path) == [".finish.lock"]
    assert os.listdir(tmp_path) == []
