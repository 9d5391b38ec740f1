"""The metadata of a store, read and checked. Those that somebody forged are in ../test_hostile.py."""

import json
import shutil

import pytest
import zarr

from mettle_cache.errors import StoreCorruptError, StoreError
from mettle_cache.store.format.layout import group_json
from mettle_cache.store.format.records import ReadyRecord
from mettle_cache.store.reading.token_store import TokenStore
from tests.store.tiny import make_spec, rewrite_metadata, write_store


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "s.zarr"
    write_store(path, make_spec(clips=2))
    return path


@pytest.fixture
def path(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "s.zarr")


def test_a_newer_format_is_refused_with_advice(path):
    head = json.loads((path / "zarr.json").read_bytes())
    head["attributes"]["mettle"]["format"] = 3
    (path / "zarr.json").write_text(json.dumps(head))
    with pytest.raises(StoreError, match="has store format 3; this version reads formats 1 to 2") as caught:
        TokenStore.open(path)
    assert "newer" in caught.value.hint


def test_a_newer_version_of_the_codec_is_refused_with_advice(path):
    def change(root):
        # in its place, because there is one valid rendering
        fields = [(name, value) for name, value in root["key"].items() if name != "codec_version"]
        after = [name for name, _ in fields].index("codec") + 1
        root["key"] = dict([*fields[:after], ("codec_version", 9), *fields[after:]])

    rewrite_metadata(path, change)
    with pytest.raises(StoreError, match="is written in version 9 of the codec int8; here is version 1") as caught:
        TokenStore.open(path)
    assert "install the version" in caught.value.hint


@pytest.mark.parametrize("place", ["provenance", "digest"])
def test_a_root_that_does_not_fit_its_digest_is_refused(path, place):
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["mettle"][place] = {"command": "another"} if place == "provenance" else "0" * 32
    (path / "zarr.json").write_bytes(group_json(root["attributes"]))
    with pytest.raises(StoreCorruptError, match=r"zarr\.json does not fit its own digest"):
        TokenStore.open(path)


@pytest.mark.parametrize("name", ["clips.json", "visual/s1/zarr.json", "manifest.parquet"])
def test_ready_vouches_for_every_file_or_for_none(path, name):
    record = ReadyRecord.from_bytes((path / "READY").read_bytes())
    files = {file: digest for file, digest in record.files.items() if file != name}
    (path / "READY").write_bytes(record.model_copy(update={"files": files}).to_bytes())
    with pytest.raises(StoreCorruptError, match=r"READY: it is of another store"):
        TokenStore.open(path)


def test_another_zarr_group_is_refused(tmp_path):
    zarr.create_group(tmp_path / "other.zar")
    with pytest.raises(StoreError, match="is a zarr group, but not a token store"):
        TokenStore.open(tmp_path / "other.zar")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 200_000, '{"attributes": 3}', '{"attributes":{"mettle":[]}}']
)
def test_metadata_that_are_not_metadata_are_refused(path, text):
    (path / "zarr.json").write_text(text)
    with pytest.raises(StoreCorruptError, match=r"zarr\.json is not the metadata of a zarr group"):
        TokenStore.open(path)


def test_metadata_without_end_are_not_read(path, monkeypatch):
    monkeypatch.setattr("mettle_cache.store.format.metadata.LARGEST_RECORD", 1000)
    with pytest.raises(StoreCorruptError, match="more than the 1,000 such a file may have"):
        TokenStore.open(path)


@pytest.mark.parametrize(
    "change", [{"codecs": [{"name": "zstd"}]}, {"shape": [10**12, 2, 2, 9, 4]}, {"data_type": "float64"}]
)
def test_arrays_of_another_layout_are_refused(path, change):
    metadata = json.loads((path / "visual/s1/zarr.json").read_bytes())
    (path / "visual/s1/zarr.json").write_text(json.dumps({**metadata, **change}))
    with pytest.raises(StoreCorruptError, match=r"visual/s1/zarr\.json: not the bytes that were written"):
        TokenStore.open(path)
