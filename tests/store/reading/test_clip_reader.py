"""The cache of open files: bounded, shared between threads, and it never closes a file under a reader."""

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mettle_cache.store.format.files import open_regular
from mettle_cache.store.reading.clip_reader import DescriptorCache


@pytest.fixture
def files(tmp_path):
    for number in range(6):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    return [str(tmp_path / str(number)) for number in range(6)]


def count_open(files):
    open_now = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return sum(open_now.count(file) for file in files)


def test_files_stay_open_up_to_the_capacity(files):
    cache = DescriptorCache(open_regular, capacity=2)
    for file in files:
        with cache.lease(file) as descriptor:
            assert os.pread(descriptor, 9, 0) == os.path.basename(file).encode()
    assert count_open(files) == 2
    cache.close()
    assert count_open(files) == 0


def test_a_file_is_opened_once_while_it_is_kept(files):
    opened = []
    cache = DescriptorCache(lambda path: opened.append(path) or open_regular(path), capacity=2)
    for file in (files[0], files[1], files[0], files[2], files[0], files[1]):
        with cache.lease(file):
            pass
    assert opened == [files[0], files[1], files[2], files[1]]


def test_a_file_in_use_is_never_closed(files):
    cache = DescriptorCache(open_regular, capacity=0)
    with cache.lease(files[0]) as descriptor:
        for file in files[1:]:
            with cache.lease(file):
                pass
        assert os.pread(descriptor, 9, 0) == b"0"
    assert count_open(files) == 0


def test_many_threads_read_the_right_files_and_leak_none(files):
    cache = DescriptorCache(open_regular, capacity=2)
    start = threading.Barrier(4)

    def read(seed):
        start.wait()
        for step in range(300):
            number = (seed * 7 + step * (seed + 1)) % len(files)
            with cache.lease(files[number]) as descriptor:
                assert os.pread(descriptor, 9, 0) == b"%d" % number

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert count_open(files) <= 2
    cache.close()
    assert count_open(files) == 0


def test_files_are_closed_with_the_cache(files):
    cache = DescriptorCache(open_regular, capacity=6)
    with cache.lease(files[0]):
        pass
    del cache
    gc.collect()
    assert count_open(files) == 0


def test_a_file_that_cannot_be_opened_is_no_entry(files, tmp_path):
    cache = DescriptorCache(open_regular, capacity=2)
    for _ in range(2):
        with pytest.raises(FileNotFoundError), cache.lease(str(tmp_path / "missing")):
            pass
    (tmp_path / "missing").write_bytes(b"now")
    with cache.lease(str(tmp_path / "missing")) as descriptor:
        assert os.pread(descriptor, 9, 0) == b"now"


def test_folders_links_and_pipes_are_refused(tmp_path, files):
    (tmp_path / "link").symlink_to(files[0])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name)
