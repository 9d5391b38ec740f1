"""One pilot a store: who comes second waits, is told so, and can be stopped."""

import os
import signal
import threading
from contextlib import contextmanager

import pytest

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.writing.pilot_lock import pilot_lock


@contextmanager
def held(store):
    """Another holder of the lock; the event that lets it go."""
    taken, go = threading.Event(), threading.Event()

    def hold():
        with pilot_lock(store, pytest.fail):
            taken.set()
            go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    try:
        yield go
    finally:
        go.set()
        holder.join()


def test_who_comes_second_waits_until_the_first_is_done(tmp_path):
    with held(tmp_path / "s.zarr") as go, pilot_lock(tmp_path / "s.zarr", go.set):
        assert go.is_set()
    assert list(tmp_path.iterdir()) == []


def test_the_wait_can_be_interrupted(tmp_path):
    # processes that run tests side by side ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    with held(tmp_path / "s.zarr"), pytest.raises(KeyboardInterrupt), pilot_lock(tmp_path / "s.zarr", interrupt.start):
        pass
    signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_the_folder_stays(tmp_path):
    (tmp_path / "zarr.json").touch()
    with pilot_lock(tmp_path, pytest.fail):
        assert (tmp_path / ".locks" / "pilot.lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["zarr.json"]


def test_a_link_is_no_folder_of_locks(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match="is a link"), pilot_lock(tmp_path, pytest.fail):
        pass
