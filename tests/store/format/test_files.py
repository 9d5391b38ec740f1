"""Small files, and tables: the same rows give the same bytes, and a small file cannot unfold into a large table."""

import itertools
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format import files
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import read_fully, read_small, read_table, table_bytes

TABLE = pa.table({"clip": ["a", "b", "a"], "split": ["train", "val", "test"], "start": [0, 2, 4]})


def read(path):
    return read_table(path, expected=digest(path.read_bytes()), store=path.parent)


def test_tables_survive(tmp_path):
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    assert read(tmp_path / "t.parquet").equals(TABLE)


def test_lists_and_bytes_survive_with_their_nulls(tmp_path):
    rows = {"labels": [["Dog", "Cat"], [], None], "starts": [[0, 3], [], None], "motion": [b"\x00\xff", None, b""]}
    types = [("labels", pa.list_(pa.string())), ("starts", pa.list_(pa.int64())), ("motion", pa.binary())]
    table = pa.table(rows, schema=pa.schema(types))
    (tmp_path / "t.parquet").write_bytes(table_bytes(table))
    assert read(tmp_path / "t.parquet").equals(table)


def test_neither_chunks_nor_metadata_change_the_bytes():
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]).replace_schema_metadata({"pandas": "x"})
    assert table_bytes(chunked) == table_bytes(TABLE)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": True}])
def test_tables_that_could_unfold_are_refused(tmp_path, options):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"id": ["x" * 100_000] * 2000}), path, **options)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(StoreCorruptError, match="column 'id' is compressed"):
        read(path)


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_ROWS", 2)
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    with pytest.raises(StoreCorruptError, match="3 rows"):
        read(tmp_path / "t.parquet")


def test_a_table_beyond_any_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_TABLE", 100)
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    with pytest.raises(StoreCorruptError, match="more than the 100 such a file may have"):
        read(tmp_path / "t.parquet")


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    (tmp_path / "link.parquet").symlink_to("t.parquet")
    with pytest.raises(StoreCorruptError, match=r"link\.parquet"):
        read(tmp_path / "link.parquet")


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_table_never_reaches_pyarrow(tmp_path, data):
    """pyarrow 26 ends the process on some of these (a damaged footer or damaged offsets)."""
    damaged = bytearray(table_bytes(TABLE))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "t.parquet").write_bytes(damaged)
    with pytest.raises(StoreCorruptError, match=r"t\.parquet: not the bytes that were written"):
        read_table(tmp_path / "t.parquet", expected=digest(table_bytes(TABLE)), store=tmp_path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not a table PAR1")
    with pytest.raises(StoreCorruptError, match="not a table of a store"):
        read(tmp_path / "t.parquet")


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), steps=st.lists(st.integers(1, 60), min_size=1))
def test_reads_that_the_kernel_cuts_short_are_continued(sizes, steps):
    """``preadv`` may return less than was asked for at any point."""
    real, cuts = os.preadv, itertools.cycle(steps)

    def cut_short(descriptor, targets, offset):
        most = next(cuts)
        short, room = [], most
        for target in targets:
            short.append(target[:room])
            room -= len(short[-1])
            if room == 0:
                break
        return real(descriptor, short, offset)

    with open("/proc/self/exe", "rb") as file, pytest.MonkeyPatch.context() as patch:
        expected = os.pread(file.fileno(), sum(sizes), 7)
        patch.setattr(os, "preadv", cut_short)
        targets = [memoryview(bytearray(size)) for size in sizes]
        assert read_fully(file.fileno(), targets, 7, sum(sizes)) == sum(sizes)
        assert b"".join(targets) == expected


@pytest.mark.parametrize("size", [0, 9, 10])
def test_a_small_file_may_be_as_large_as_its_limit_and_no_larger(tmp_path, size):
    (tmp_path / "x").write_bytes(b"0123456789"[:size])
    assert read_small(tmp_path / "x", limit=10, store=tmp_path) == b"0123456789"[:size]
    if size:
        with pytest.raises(StoreCorruptError, match=f"x: {size} bytes, more than the {size - 1} such a file may have"):
            read_small(tmp_path / "x", limit=size - 1, store=tmp_path)
