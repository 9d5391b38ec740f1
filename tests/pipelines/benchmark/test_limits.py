"""What the limits count: bytes of files and multiply-adds; the floor of a step; and the page cache, by mincore."""

import os

import pytest
import torch

from mettle_cache.pipelines.benchmark.limits import (
    FileRange,
    Floor,
    RawReader,
    cached_fraction,
    evict,
    matmul_rate,
)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / str(number) for number in range(7)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (1000 * number + 1))
    return paths


@pytest.mark.parametrize("threads", [1, 3, 9])
@pytest.mark.parametrize("memory", [0, 3000, 10**6])
def test_raw_reads_read_every_byte_of_every_file(files, threads, memory):
    ranges = [FileRange(path, 0, path.stat().st_size) for path in files]
    assert RawReader(ranges, threads=threads, memory=memory).read() == sum(part.nbytes for part in ranges)


def test_raw_reads_read_the_parts_that_they_are_told(files):
    (path := files[0]).write_bytes(bytes(range(100)))
    reader = RawReader([FileRange(path, 10, 3), FileRange(path, 90, 10)], threads=1, memory=20)
    assert reader.read() == 13
    assert list(reader._buffers[0][:13]) == [10, 11, 12, *range(90, 100)]
    with pytest.raises(OSError, match="ends before"):
        RawReader([FileRange(path, 95, 10)], threads=1, memory=20).read()


def test_raw_reads_fill_the_memory_in_turn_and_begin_again_where_a_part_no_longer_fits(files):
    ranges = [FileRange(path, 0, path.stat().st_size) for path in files[:3]]
    reader = RawReader(ranges, threads=1, memory=2500)
    reader.read()
    (memory,) = reader._buffers
    # 1 byte, 1,001 bytes, and 2,001 that only fit at the start again
    assert bytes(memory[:2001]) == b"\2" * 2001
    assert bytes(memory[2001:]) == b"\1" * (len(memory) - 2001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_products_counts_multiply_adds(dtype, monkeypatch):
    """A product that takes a second of 2 x 3 x 5 multiply-adds runs at 30 a second."""
    monkeypatch.setattr(
        "mettle_cache.pipelines.benchmark.limits._multiply", lambda left, right, out, count: float(count)
    )
    assert matmul_rate(2, 3, 5, dtype=dtype) == 30


def test_a_real_product_has_a_rate():
    assert matmul_rate(8, 8, 8) > 0


def test_reading_and_multiplying_overlap_and_the_update_does_not():
    assert Floor(read=3.0, products=1.0, optimiser=0.5).seconds == 3.5
    assert Floor(read=1.0, products=2.0, optimiser=0.5).seconds == 2.5
    assert Floor(read=0.1, products=0.02, optimiser=0.003).describe() == (
        "the larger of 100.0 ms to read and 20.0 ms of products, and 3.0 ms of the optimiser"
    )


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
