"""A disk is asked before it is written to."""

import pytest

from mettle_cache.errors import NoRoomError
from mettle_cache.pipelines.room import check_room


def test_room_counts_a_margin(tmp_path, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.room.free_bytes", lambda path: 1000)
    check_room(tmp_path, 900)
    with pytest.raises(NoRoomError, match=r"still needs 2\.0 kB, but 1\.0 kB are free"):
        check_room(tmp_path, 1990)
    with pytest.raises(NoRoomError):
        check_room(tmp_path, 990)
