"""What is remembered outside of stores: believed while it is whole, and never needed."""

import os
import shutil

import pytest
from safetensors.torch import save_file

from mettle_cache.backbones import create_backbone
from mettle_cache.errors import StoreKeyError
from mettle_cache.pipelines.extract import memory
from mettle_cache.pipelines.extract.memory import (
    FOLDER_VARIABLE,
    SourceMemory,
    memory_folder,
    remember_weights,
    remembered_weights,
)
from mettle_cache.pipelines.extract.run import extract
from tests.pipelines.extraction import tiny, write_clips

KEY = "0" * 32


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "memory"))
    return tmp_path / "memory"


def fill(root, **clips):
    written = SourceMemory.open(KEY, root)
    for clip, (stamp, source) in clips.items():
        written.remember(clip, stamp, source)
    written.close()


def test_a_digest_is_recalled_for_the_same_stamp_key_and_root_only(folder, tmp_path):
    fill(tmp_path, a=("stamp", "source"))
    again = SourceMemory.open(KEY, tmp_path)
    assert (again.recall("a", "stamp"), again.recall("a", "other"), again.recall("b", "stamp")) == (
        "source",
        None,
        None,
    )
    assert SourceMemory.open("1" * 32, tmp_path).recall("a", "stamp") is None
    assert SourceMemory.open(KEY, tmp_path / "memory").recall("a", "stamp") is None
    (other,) = SourceMemory.others(KEY, tmp_path / "memory")
    assert (other.root, other.source_of("a")) == (str(tmp_path), "source")


def test_two_processes_that_write_at_the_same_time_both_count(folder, tmp_path):
    one, two = SourceMemory.open(KEY, tmp_path), SourceMemory.open(KEY, tmp_path)
    one.remember("a", "stamp", "of a")
    two.remember("b", "stamp", "of b")
    one.close()
    two.close()
    both = SourceMemory.open(KEY, tmp_path)
    assert (both.recall("a", "stamp"), both.recall("b", "stamp")) == ("of a", "of b")


def test_every_changed_byte_costs_the_memory_and_nothing_else(folder, tmp_path):
    fill(tmp_path, a=("stamp", "source"))
    (file,) = (folder / "sources").iterdir()
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") is None
    file.write_bytes(whole)
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") == "source"


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff\x00", b'{"digest":"0","format":2}'])
def test_what_is_no_memory_is_ignored_and_replaced(folder, tmp_path, content):
    fill(tmp_path, a=("stamp", "source"))
    (file,) = (folder / "sources").iterdir()
    file.write_bytes(content)
    (folder / "weights.json").write_bytes(content)
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") is None
    assert remembered_weights("d") is None
    fill(tmp_path, a=("stamp", "source"))
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") == "source"


def test_pipes_and_links_are_not_followed(folder, tmp_path):
    fill(tmp_path, a=("stamp", "source"))
    (file,) = (folder / "sources").iterdir()
    shutil.move(file, tmp_path / "real.json")
    file.symlink_to(tmp_path / "real.json")
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") is None
    file.unlink()
    os.mkfifo(file)
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") is None


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path, place):
    monkeypatch.setenv(FOLDER_VARIABLE, place)
    fill(tmp_path, a=("stamp", "source"))
    remember_weights("d", tmp_path)
    assert SourceMemory.open(KEY, tmp_path).recall("a", "stamp") is None


def test_only_the_newest_memories_are_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "NEWEST_KEPT", 3)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        fill(tmp_path / str(number), a=("stamp", "source"))
        for age, path in enumerate(sorted((folder / "sources").iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(age, age))
    kept = [number for number in range(5) if SourceMemory.open(KEY, tmp_path / str(number)).source_of("a")]
    assert kept == [2, 3, 4]


def test_the_folder_is_the_users_cache(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert str(memory_folder()) == "/somewhere/cache/mettle-cache/memory"
    # a relative one is to be ignored (XDG base directory specification)
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert memory_folder() is None


def test_weights_are_remembered_while_their_file_is_there(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"w")
    remember_weights("digest", tmp_path / "w.safetensors")
    assert remembered_weights("digest") == tmp_path / "w.safetensors"
    assert remembered_weights("another") is None
    (tmp_path / "w.safetensors").unlink()
    assert remembered_weights("digest") is None


def test_a_store_of_other_weights_says_where_they_lay(folder, tmp_path):
    root = write_clips(tmp_path / "AVE", train=1)
    for seed in (1, 2):
        network = create_backbone("test_vit@64", weights="random", seed=seed).trunk.network
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        save_file(state, tmp_path / f"{seed}.safetensors")
    first, second = (
        tiny(root, tmp_path / "s.zarr", visual=f"test_vit@64={tmp_path / f'{seed}.safetensors'}", layers="visual/s1b01")
        for seed in (1, 2)
    )
    extract(first)
    with pytest.raises(StoreKeyError) as caught:
        extract(second)
    assert f"the store's visual weights were read from {tmp_path / '1.safetensors'}" in caught.value.hint


@pytest.mark.parametrize("place", ["a" * 300, "/" + "a" * 300, "x/" * 3000])
def test_a_folder_that_cannot_be_named_is_no_error(monkeypatch, tmp_path, place):
    monkeypatch.setenv(FOLDER_VARIABLE, place)
    fill(tmp_path, a=("stamp", "source"))
    assert list(SourceMemory.others(KEY, tmp_path)) == []
    assert remembered_weights("d") is None


def test_the_users_home_is_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, "~/memory")
    assert memory_folder() == tmp_path / "memory"
