"""The read-speed probe: a plausible figure, and nothing left behind."""

import os
import time

import pytest

from mettle_cache.errors import StoreError
from mettle_cache.store.reading.disk_speed import measure_read_speed


def test_the_figure_is_that_of_the_bytes_read(tmp_path):
    started = time.perf_counter()
    speed = measure_read_speed(tmp_path, nbytes=8 << 20)
    elapsed = time.perf_counter() - started
    assert speed > (8 << 20) / elapsed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"cannot measure the disk in .*{folder}"):
        measure_read_speed(tmp_path / folder)


def test_nothing_is_left_when_reading_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        measure_read_speed(tmp_path, nbytes=1 << 20)
    assert list(tmp_path.iterdir()) == []
