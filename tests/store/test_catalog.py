"""Which stores there are, and what one holds."""

import os

import pytest

from mettle_cache.errors import StoreCorruptError, StoreMissingError
from mettle_cache.store import StoreWriter, describe_store, find_stores
from tests.store.tiny import clip_tokens, make_spec, source, write_store


def test_finished_stores_are_found_newest_first(tmp_path):
    for number, name in enumerate(("b.zarr", "c.zarr", "a.zarr")):
        write_store(tmp_path / name)
        os.utime(tmp_path / name / "READY", (1e9 + number, 1e9 + number))
    (tmp_path / "d.zarr").mkdir()
    StoreWriter.create_or_resume(tmp_path / "e.zarr", make_spec()).close()
    assert find_stores(tmp_path) == [tmp_path / "a.zarr", tmp_path / "c.zarr", tmp_path / "b.zarr"]
    assert find_stores(tmp_path / "nowhere") == []


def test_a_store_is_described_by_what_lies_in_it(tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec("int4", clips=5), failed=[3])
    facts = describe_store(path)
    assert (facts["clips"], facts["committed"], facts["failed"]) == (5, 4, {"clip-3": "no such video"})
    assert (facts["finished"], facts["codec"], facts["segments"], facts["dataset"]) == (True, "int4", 2, "tiny")
    assert facts["rows"] == {"train": 5, "val": 1}
    shards = sum(file.stat().st_size for file in path.rglob("c.*"))
    indexes = 3 * (2 * 6 * 16 + 3 * 4)  # of the shards of 3 arrays: an entry a clip and block, a checksum
    # the place of the failed clip is empty
    assert 5 * facts["bytes_per_clip"] == shards - indexes
    assert facts["nbytes"] == 4 * facts["bytes_per_clip"]
    assert (facts["format"], facts["clips_per_shard"]) == (2, 2)
    assert facts["files"] == sum(file.is_file() for file in path.rglob("*"))
    assert facts["stages"] == [
        {"array": "visual/s1", "layers": 2, "tokens": 9, "width": 4, "cell": 1},
        {"array": "visual/s2", "layers": 3, "tokens": 4, "width": 8, "cell": 1},
        {"array": "audio/s1", "layers": 1, "tokens": 4, "width": 6, "cell": 1},
    ]
    assert facts["provenance"]["command"] == "mettle extract --dataset tiny"


def test_a_store_that_is_not_finished_says_so(tmp_path):
    path = tmp_path / "s.zarr"
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert describe_store(path) | {"finished": False, "committed": 0, "nbytes": 0} == describe_store(path)
        assert describe_store(path)["bytes_per_clip"] == 0
        writer.write_clip(2, clip_tokens(2), source=source(2))
    facts = describe_store(path)
    assert (facts["finished"], facts["committed"]) == (False, 1)
    assert facts["nbytes"] == facts["bytes_per_clip"] > 0


def test_what_is_no_store_or_damaged_is_not_described(tmp_path):
    with pytest.raises(StoreMissingError):
        describe_store(tmp_path / "nothing.zarr")
    write_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreCorruptError, match=r"samples\.parquet: not the bytes that were written"):
        describe_store(tmp_path / "s.zarr")
