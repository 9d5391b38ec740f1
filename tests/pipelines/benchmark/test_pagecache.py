"""The page cache, by mincore's own word."""

import os

import pytest

from mettle_cache.pipelines.benchmark.pagecache import cached_fraction, evict


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    return path


def test_a_file_that_was_just_read_is_cached(file):
    file.read_bytes()
    assert cached_fraction([file]) == 1.0


def test_an_evicted_file_is_not_cached_where_the_file_system_has_a_disk(file):
    evict([file])
    left = cached_fraction([file])
    if left == 1.0:
        pytest.skip("this file system lives in memory")
    assert left == 0.0


def test_an_empty_file_has_no_pages(tmp_path):
    (tmp_path / "empty").touch()
    assert cached_fraction([tmp_path / "empty"]) == 0.0
    assert cached_fraction([]) == 0.0
