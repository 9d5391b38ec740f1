"""Stores that were made to hurt: refused in words, before anything is allocated, followed or run."""

import shutil

import pytest

from mettle_cache.errors import MettleError, StoreCorruptError, StoreError
from mettle_cache.store.catalog import describe_store, find_stores
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import make_spec, rewrite_metadata, write_store


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "s.zar"
    write_store(path, make_spec(clips=2))
    return path


@pytest.fixture
def path(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "s.zar")


def set_layer(field, value):
    return lambda root: root["key"]["layers"][0].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_layer("name", "../../etc"), "is called '../../etc'"),
        (set_layer("modality", "../visual"), r"zarr\.json is not valid: 1 validation error"),
        (set_layer("tokens", 2**40), r"zarr\.json is not valid: 1 validation error"),
        (set_layer("tokens", 2**30), "visual/s1 differ in tokens, width or cells"),
        (set_layer("block", 2), "is called"),
        (set_layer("width", -4), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root["key"].update(segments=2**30), "beyond any size that is read"),
        (lambda root: root["key"].update(clips_per_shard=4097), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root["key"].update(clips_per_shard=0), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root["key"].pop("clips_per_shard"), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root["key"].update(format=1), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root.update(format=1), "does not fit its own key digest"),
        (
            lambda root: root["key"].update(codec="pickle"),
            "is written in the codec 'pickle', which is not installed here",
        ),
        (lambda root: root["key"]["clips"].update(count=10**12), r"zarr\.json is not valid: 1 validation error"),
        (
            lambda root: root["key"].update(static={"static/visual/s1_levels/c.0.0": "0" * 32}),
            r"declares other static arrays than codec int8 has \(none\)",
        ),
        (lambda root: root["key"].update(extra=1), r"zarr\.json is not valid: 1 validation error"),
        (lambda root: root.update(surplus=1), r"zarr\.json is not valid: 1 validation error"),
    ],
)
def test_forged_metadata_are_refused_by_every_entrance(path, change, message):
    rewrite_metadata(path, change)
    for entrance in (TokenStore.open, verify_store, describe_store, StoreWriter.join, load_metadata):
        with pytest.raises(StoreError, match=message) as caught:
            entrance(path)
        # an unknown codec may be another package's: the only change here that is no damage
        assert isinstance(caught.value, StoreCorruptError) == ("not installed" not in message)
        assert len(caught.value.message) < 500
    assert find_stores(path.parent) == []


def test_a_store_of_many_clips_that_are_not_there_is_refused(path):
    rewrite_metadata(path, lambda root: root["key"]["clips"].update(count=2**20))
    with pytest.raises(StoreCorruptError, match=r"READY: it is of another store"):
        TokenStore.open(path)


@pytest.mark.parametrize("name", ["visual", "visual/s1", "commits", "audio/s1"])
def test_folders_that_lead_elsewhere_are_refused(path, tmp_path, name):
    shutil.move(path / name, tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    for entrance in (TokenStore.open, verify_store, StoreWriter.join):
        with pytest.raises(StoreCorruptError, match=f"{name} is a link"):
            entrance(path)


@pytest.mark.parametrize("name", ["READY", "manifest.parquet", "clips.json", "visual/s1/zarr.json", "zarr.json"])
def test_files_that_lead_elsewhere_are_refused(path, tmp_path, name):
    shutil.move(path / name, tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match=f"{name}: Too many levels of symbolic links"):
        TokenStore.open(path)


def test_a_commit_that_leads_elsewhere_is_refused(path, tmp_path):
    commit = path / "commits" / "00000000.jsonl"
    shutil.move(commit, tmp_path / "elsewhere")
    commit.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match=r"00000000\.jsonl: Too many levels"):
        TokenStore.open(path).read([1])


def test_a_store_may_itself_be_reached_through_a_link(path, tmp_path):
    (tmp_path / "link.zar").symlink_to(path)
    assert TokenStore.open(tmp_path / "link.zar").read([0]).clips == (0,)


def test_an_unfinished_store_of_another_layout_is_not_trusted_either(path):
    (path / "READY").unlink()
    (path / "visual/s1/c.0.0.0").write_bytes(bytes(2**20))
    with pytest.raises(MettleError, match=r"instead of|not those that were committed"):
        TokenStore.open(path, allow_unfinished=True).read([0])
