"""The manifest of a finished store, and what stands in for it before."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.manifest import manifest_so_far, splits_of
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import clip_tokens, make_spec, source, write_store

SAMPLES = pa.table({"clip": ["a", "b", "a"], "split": ["train", "val", "test"]})


def test_splits_are_those_of_a_clip_s_rows():
    assert splits_of(["a", "b", "c"], SAMPLES) == ["train,test", "val", ""]
    assert splits_of(["a", "b"], SAMPLES.drop_columns(["split"])) == ["", ""]


def test_the_manifest_is_a_table_that_others_can_read(tmp_path):
    write_store(tmp_path / "s.zarr", failed=[2])
    rows = pq.read_table(tmp_path / "s.zarr" / "manifest.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["clip-0", "clip-1", "clip-2", "clip-3"]
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok"]
    assert rows[0]["split"] == "train,val"
    assert rows[2]["error"] == "no such video"
    assert rows[3]["source"] == source(3)
    assert {row["segments"] for row in rows} == {2}


def test_before_the_end_the_commits_are_the_manifest(tmp_path):
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", make_spec()) as writer:
        writer.write_clip(1, clip_tokens(1), source=source(1))
        writer.fail_clip(3, "no sound")
    so_far = manifest_so_far(load_metadata(tmp_path / "s.zarr"))
    assert so_far.statuses == ("pending", "ok", "pending", "failed")
    assert so_far.errors == ("", "", "", "no sound")
    assert not (tmp_path / "s.zarr" / "manifest.parquet").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'["clip-0"]', b'["clip-1","clip-0","clip-2","clip-3"]'])
def test_other_ids_than_the_key_s_are_refused(tmp_path, content):
    write_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / "clips.json").write_bytes(content)
    with pytest.raises(StoreCorruptError, match=r"clips\.json: not the clips that the store's key names"):
        load_metadata(tmp_path / "s.zarr").read_clip_ids()
