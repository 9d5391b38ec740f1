import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.companions import FORMAT, CompanionFile, HeldCompanion, companion_bytes
from mettle_cache.errors import StoreCorruptError, StoreKeyError

KEY = "7" * 32
TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.zeros(3, dtype=torch.int8)}
DESCRIPTION = {"kind": "test", "store": KEY, "numbers": [1, 2]}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "test.safetensors"
    path.write_bytes(companion_bytes(TENSORS, DESCRIPTION))
    return path


def test_a_file_gives_back_what_it_was_made_of(file):
    companion = CompanionFile(file, KEY)
    assert {name: companion.description[name] for name in DESCRIPTION} == DESCRIPTION
    assert companion.shapes == HeldCompanion(DESCRIPTION, TENSORS).shapes == {"a": (3,), "b": (2, 3)}
    loaded = companion.load()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    # a copy has the very same bytes, whatever the order of its tensors
    assert companion_bytes(dict(reversed(loaded.items())), companion.description) == file.read_bytes()


def test_another_store_s_is_refused(file):
    with pytest.raises(StoreKeyError, match=r"test.safetensors is of another store.*\n.*remove it; mettle extract"):
        _ = CompanionFile(file, "8" * 32).description


def test_damage_is_found_wherever_it_is(file):
    content = file.read_bytes()
    for place in (0, 5, 40, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises((StoreCorruptError, StoreKeyError), match=r"test\.safetensors.*\n.*remove it"):
            CompanionFile(file, KEY).load()
    for length in (0, 7, 100, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(StoreCorruptError, match="the companion is damaged"):
            CompanionFile(file, KEY).load()


@pytest.mark.parametrize("metadata", [None, {FORMAT: "[]"}, {FORMAT: "{"}, {FORMAT: "{}"}, {FORMAT: '{"store": "7"}'}])
def test_another_file_is_refused(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(StoreCorruptError, match="the companion is damaged"):
        _ = CompanionFile(tmp_path / "x.safetensors", KEY).description


def test_links_and_folders_are_refused(file, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(file)
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("link", "folder", "missing"):
        with pytest.raises(StoreCorruptError, match="it is no regular file"):
            _ = CompanionFile(tmp_path / f"{name}.safetensors", KEY).shapes
