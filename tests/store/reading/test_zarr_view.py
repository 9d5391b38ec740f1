"""A store as zarr-python sees it: nothing that is missing is read as zeros."""

import pytest
import torch

from mettle_cache.errors import StoreCorruptError, StoreError, StoreUnfinishedError
from mettle_cache.store import TokenStore
from tests.store.tiny import clip_tokens, make_spec, write_store


def test_zarr_reads_a_finished_store_and_nothing_that_is_not_there(tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec("float16", clips=3), failed=[1])
    group = TokenStore.open(path).to_zarr()
    assert torch.equal(torch.from_numpy(group["visual/s2"][2, 1]), clip_tokens(2, "float16")["visual/s2b02"].codes)
    with pytest.raises(ValueError, match=r"read.only"):
        group["visual/s2"][0] = 0
    with pytest.raises(StoreError, match="clip clip-1 has no tokens: no such video"):
        group["visual/s2"][:]
    (path / "visual/s2/c.2.0.0.0.0").unlink()
    with pytest.raises(StoreCorruptError, match=r"clip clip-2: .*c\.2\.0\.0\.0\.0 is missing"):
        group["visual/s2"][2]
    (path / "READY").unlink()
    with pytest.raises(StoreUnfinishedError, match="zarr would read what is missing as zeros"):
        TokenStore.open(path, allow_unfinished=True).to_zarr()


def test_listing_the_group_shows_its_arrays_and_warns_of_no_record(tmp_path):
    """Warnings are errors here; zarr has one for every file beside the groups that is not its own."""
    spec = make_spec("int8", clips=2)
    write_store(tmp_path / "s.zarr", spec)
    store = TokenStore.open(tmp_path / "s.zarr")
    group = store.to_zarr()
    assert set(group) == {layer.modality for layer in store.layers}
    names = {name for name, _ in group.members(max_depth=None)}
    assert {layer.array for layer in store.layers} <= names
    assert {"READY", "commits", "manifest.parquet"}.isdisjoint(names)
