"""Tables: the same rows give the same bytes, and a small file cannot unfold into a large table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store import tables
from mettle_cache.store.tables import pending_manifest, read_table, splits_of, table_bytes

TABLE = pa.table({"clip": ["a", "b", "a"], "split": ["train", "val", "test"], "start": [0, 2, 4]})


def test_tables_survive(tmp_path):
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    table, data = read_table(tmp_path / "t.parquet", store=tmp_path)
    assert table.equals(TABLE)
    assert data == table_bytes(TABLE)


def test_neither_chunks_nor_metadata_change_the_bytes():
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]).replace_schema_metadata({"pandas": "x"})
    assert table_bytes(chunked) == table_bytes(TABLE)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": True}])
def test_tables_that_could_unfold_are_refused(tmp_path, options):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"id": ["x" * 100_000] * 2000}), path, **options)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(StoreCorruptError, match="column id is compressed"):
        read_table(path, store=tmp_path)


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_ROWS", 2)
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    with pytest.raises(StoreCorruptError, match="3 rows"):
        read_table(tmp_path / "t.parquet", store=tmp_path)


def test_a_table_beyond_any_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST_TABLE", 100)
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    with pytest.raises(StoreCorruptError, match="more than the 100 such a file may have"):
        read_table(tmp_path / "t.parquet", store=tmp_path)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "t.parquet").write_bytes(table_bytes(TABLE))
    (tmp_path / "link.parquet").symlink_to("t.parquet")
    with pytest.raises(StoreCorruptError, match=r"link\.parquet"):
        read_table(tmp_path / "link.parquet", store=tmp_path)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damage_gives_a_table_or_an_error_and_never_a_crash(tmp_path, data):
    damaged = bytearray(table_bytes(TABLE))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "t.parquet").write_bytes(damaged)
    try:
        table, _ = read_table(tmp_path / "t.parquet", store=tmp_path)
    except StoreCorruptError:
        return
    assert table.num_rows <= len(damaged)


def test_splits_are_those_of_a_clip_s_rows():
    assert splits_of(["a", "b", "c"], TABLE) == ["train,test", "val", ""]
    assert splits_of(["a", "b"], TABLE.drop_columns(["split"])) == ["", ""]


def test_a_new_manifest_knows_the_ids_and_nothing_else():
    manifest = pending_manifest(["a", "b"], TABLE, 10).to_pylist()
    assert [row["id"] for row in manifest] == ["a", "b"]
    assert {row["status"] for row in manifest} == {"pending"}
    assert {row["segments"] for row in manifest} == {10}
