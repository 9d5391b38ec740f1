"""The beginning and the end of a store: what is taken, what is restored, what is refused."""

import pytest

from mettle_cache.errors import StoreError, StoreKeyError
from mettle_cache.store.writing.durable import PARTIAL
from tests.store.tiny import contents, make_spec, write_store


def test_finishing_and_running_again_change_nothing(path, uninterrupted):
    write_store(path)
    stamps = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert write_store(path).clips == 4
    assert contents(path) == uninterrupted
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == {
        file: stamp for file, stamp in stamps.items() if file.is_file()
    }


@pytest.mark.parametrize(
    "name", ["zarr.json", "audio/s1/zarr.json", "clips.json", "samples.parquet", "manifest.parquet", "READY"]
)
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_metadata_are_restored(path, uninterrupted, name, damage):
    write_store(path)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).unlink() if damage == "missing" else (path / name).write_bytes(data)
    write_store(path)
    assert contents(path) == uninterrupted


def test_ready_goes_before_a_damaged_file_is_written_anew(path, monkeypatch):
    write_store(path)
    (path / "clips.json").write_text("[]")
    monkeypatch.setattr("mettle_cache.store.writing.lifecycle.write_file", lambda *_: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception):
        write_store(path)
    assert not (path / "READY").exists()
    assert not (path / "manifest.parquet").exists()


def test_a_damaged_root_is_not_written_over_without_proof_of_the_key(path):
    write_store(path)
    (path / "zarr.json").write_text("{}x")
    with pytest.raises(StoreError, match=r"zarr\.json is not the metadata of a zarr group"):
        write_store(path, make_spec(key={"visual": "other"}))


def test_another_key_is_refused_with_what_differs(path):
    write_store(path)
    before = contents(path)
    with pytest.raises(
        StoreKeyError, match=r"(?s)segments: 2 -> 3.*extraction.visual.weights: \"abc\" -> \"x\""
    ) as caught:
        write_store(path, make_spec(segments=3, key={"visual": {"weights": "x", "size": 192}, "decode": {"fps": 1}}))
    assert "another --out" in caught.value.hint
    assert contents(path) == before


def test_keys_that_only_look_the_same_are_told_apart(path):
    write_store(path, make_spec(key={"a": {"b": 1}}))
    with pytest.raises(StoreKeyError, match="made by another configuration"):
        write_store(path, make_spec(key={"a.b": 1}))


def test_provenance_of_the_first_run_stays(path, uninterrupted):
    write_store(path)
    write_store(path, make_spec(provenance={"command": "again"}))
    assert contents(path) == uninterrupted


@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_other_things_at_the_path_are_left_alone(path, kind):
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    else:
        path.symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"not a (folder|token store)"):
        write_store(path)
    assert kind == "dangling" or "mine" in {file.read_text() for file in (path, *path.glob("*")) if file.is_file()}


def test_an_empty_folder_and_a_half_made_store_are_taken(path, uninterrupted):
    path.mkdir()
    (path / f"zarr.json.1-1{PARTIAL}").write_text("half")
    write_store(path)
    assert contents(path) == uninterrupted
