import pytest
import torch

from mettle_cache.companions import CompanionFile
from mettle_cache.errors import StoreCorruptError, StoreKeyError
from mettle_cache.store import TokenStore, repair_store, verify_store
from mettle_cache.store.companions import copy_companions, damaged_companions, find_companions, keep_companion
from tests.pipelines.tiny_store import write_tiny_store

TENSORS = {"weight": torch.arange(12.0).view(3, 4)}


@pytest.fixture
def store(tmp_path):
    return write_tiny_store(tmp_path / "tiny.zarr", 2, 1, 1)


def keep(store, key=None, name="late-visual.safetensors", tensors=TENSORS):
    return keep_companion(store.path, name, tensors, {"kind": "test", "store": key or store.key_digest})


def test_a_companion_is_written_once_and_found(store):
    assert store.companions == {}
    assert keep(store)
    (path,) = (store.path / "companions").iterdir()
    before = path.stat()
    assert not keep(store)
    assert path.stat().st_ino == before.st_ino
    assert torch.equal(store.companions["late-visual.safetensors"].load()["weight"], TENSORS["weight"])
    assert keep(store, name="late-audio.safetensors") is not False
    assert list(TokenStore.open(store.path).companions) == ["late-audio.safetensors", "late-visual.safetensors"]


def test_another_content_takes_its_place(store):
    keep(store)
    assert keep(store, tensors={"weight": torch.zeros(1)})
    assert store.companions["late-visual.safetensors"].shapes == {"weight": (1,)}
    damaged = store.path / "companions" / "late-visual.safetensors"
    damaged.write_bytes(b"x")
    assert keep(store)
    assert CompanionFile(damaged, store.key_digest).load().keys() == {"weight"}


def test_a_folder_that_is_a_link_is_refused(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (store.path / "companions").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match="companions is a link; a store holds its own files"):
        keep(store)
    assert find_companions(store.path, store.key_digest) == {}


def test_verification_checks_companions_and_repair_removes_the_damaged(store):
    keep(store)
    keep(store, key="f" * 32, name="late-audio.safetensors")
    (store.path / "companions" / "notes.txt").write_text("left alone")
    report = verify_store(store.path)
    assert report.companions == ("companions/late-audio.safetensors",)
    assert (report.state, report.damaged) == ("damaged", ())
    assert "late-audio.safetensors is of another store" in str(report.problems[0])
    assert repair_store(report) == 0
    assert verify_store(store.path, deep=True).ok
    assert TokenStore.open(store.path).finished

    file = store.path / "companions" / "late-visual.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert verify_store(store.path).ok
    (problem,) = verify_store(store.path, deep=True).problems
    assert str(problem) == ("companions/late-visual.safetensors: the companion is damaged (its digest is another one)")
    assert list(damaged_companions(store.path, store.key_digest, deep=False)) == []


def test_one_of_another_store_is_refused_when_it_is_used(store):
    keep(store, key="f" * 32)
    with pytest.raises(StoreKeyError, match="of another store"):
        _ = store.companions["late-visual.safetensors"].description


def test_a_store_of_the_same_tokens_takes_them_over(store, tmp_path):
    keep(store)
    keep(store, name="late-audio.safetensors", tensors={})
    (store.path / "companions" / "other.safetensors").write_bytes(b"damaged")
    other = write_tiny_store(tmp_path / "other.zarr", 2, 1, 1, codec="float16")
    (told,) = copy_companions(store.companions, other.path, other.key_digest)
    assert "other.safetensors: the companion is damaged" in told
    assert other.companions.keys() == {"late-visual.safetensors", "late-audio.safetensors"}
    assert torch.equal(other.companions["late-visual.safetensors"].load()["weight"], TENSORS["weight"])
    assert verify_store(other.path, deep=True).ok
