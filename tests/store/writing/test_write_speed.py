"""The test of a disk's writes: what its pieces say, and that nothing stays of it."""

import errno
import os

import pytest

from mettle_cache.errors import NoRoomError, StoreError
from mettle_cache.store.writing import write_speed
from mettle_cache.store.writing.write_speed import PIECE_BYTES, measure_write_speed, speed_of

MB = 10**6


def ends(*runs):
    """When pieces of 1 MB end: runs of (pieces, MB/s)."""
    now, times = 0.0, []
    for pieces, rate in runs:
        for _ in range(pieces):
            now += 1 / rate
            times.append(now)
    return times


@pytest.mark.parametrize("pieces", [1, 3, 16, 50, 1000])
def test_a_steady_rate_is_one_figure(pieces):
    speed = speed_of(ends((pieces, 200)), MB)
    assert speed.sustained == pytest.approx(200 * MB)
    assert (speed.written, speed.fell_from, speed.fell_after) == (pieces * MB, None, None)


@pytest.mark.parametrize(("fast", "slow"), [(160, 40), (100, 100), (20, 300), (600, 200)])
def test_a_drop_is_found_where_it_is(fast, slow):
    speed = speed_of(ends((fast, 1000), (slow, 200)), MB)
    stretch = (fast + slow) // 16 * MB
    assert abs(speed.fell_after - fast * MB) <= stretch
    assert speed.sustained == pytest.approx(200 * MB, rel=0.35)
    assert speed.fell_from == pytest.approx(1000 * MB, rel=0.35)
    assert speed.written == (fast + slow) * MB


@pytest.mark.parametrize(
    "runs",
    [
        [(80, 200), (1, 4), (79, 200)],  # one long pause
        [(150, 200), (10, 20)],  # slow in the very last stretch, which says nothing yet
        [(80, 200), (80, 150)],  # a little slower
        [(40, 50), (120, 200)],  # faster and faster
        [(1, 1000), (1, 10)],  # too few to tell
    ],
)
def test_what_is_no_drop_is_not_called_one(runs):
    speed = speed_of(ends(*runs), MB)
    assert speed.fell_after is None
    assert speed.sustained == pytest.approx(speed.written / ends(*runs)[-1])


def test_it_writes_what_it_says_and_leaves_nothing(tmp_path):
    told, peak = [], []

    def advance(piece):
        told.append(piece)
        peak.append(list(tmp_path.iterdir()))

    speed = measure_write_speed(tmp_path, nbytes=4 * PIECE_BYTES - 5, advance=advance)
    assert (speed.written, sum(told)) == (4 * PIECE_BYTES,) * 2
    assert speed.sustained > 0
    assert peak == [[]] * 4, "the files have no names, so that not even a killed process leaves them"


def test_time_ends_it(tmp_path):
    assert measure_write_speed(tmp_path, nbytes=1000 * PIECE_BYTES, seconds=0.0).written <= 2 * PIECE_BYTES


def test_it_never_takes_most_of_what_is_free(tmp_path, monkeypatch):
    free = iter([100 * PIECE_BYTES, *(PIECE_BYTES * left for left in range(30, 0, -1))])
    monkeypatch.setattr(write_speed, "free_bytes", lambda _: next(free))
    # somebody else fills the disk meanwhile: at a quarter of what was free it stops
    assert measure_write_speed(tmp_path, nbytes=40 * PIECE_BYTES).written <= 8 * PIECE_BYTES
    monkeypatch.setattr(write_speed, "free_bytes", lambda _: 100)
    with pytest.raises(NoRoomError, match=r"a test of 51 bytes is too large for .*: 100 are free"):
        measure_write_speed(tmp_path, nbytes=51)


def fail(number):
    def write(*_):
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoRoomError), (errno.EIO, StoreError)])
def test_a_disk_that_refuses_is_named(tmp_path, monkeypatch, number, kind):
    monkeypatch.setattr(os, "pwrite", fail(number))
    with pytest.raises(kind, match="cannot measure the disk in"):
        measure_write_speed(tmp_path, nbytes=PIECE_BYTES)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_write_speed(tmp_path, nbytes=20 * PIECE_BYTES, advance=interrupt)
    assert list(tmp_path.iterdir()) == []
