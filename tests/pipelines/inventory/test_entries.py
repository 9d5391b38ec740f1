"""What there is below some folders, and in which state."""

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.inventory.entries import bytes_on_disk, describe, list_entries, usual_folders


def test_every_state_is_told(make, tmp_path):
    kinds = ("finished store", "leftover store", "unfinished store", "foreign store")
    kinds += ("finished run", "evaluated run", "unfinished run", "damaged run", "foreign run")
    for number, kind in enumerate(kinds):
        make(tmp_path / "deep" / f"{number}", kind)
    (tmp_path / "linked").symlink_to(tmp_path / "deep" / "0")
    (tmp_path / "killed.zarr").mkdir()
    (tmp_path / "killed.zarr" / "zarr.json.partial").touch()
    (tmp_path / "empty.zarr").mkdir()
    told = {one.path.name: (one.kind, one.state, one.done, one.total) for one in list_entries([tmp_path])}
    assert told == {
        "0": ("store", "finished", 3, 3),
        "1": ("store", "finished", 3, 3),
        "2": ("store", "unfinished", 3, 3),
        "4": ("run", "finished", 2, 2),
        "5": ("run", "evaluated", 2, 2),
        "6": ("run", "unfinished", 1, 2),
        "7": ("run", "damaged", None, None),
        "killed.zarr": ("store", "unfinished", None, None),
    }


def test_a_run_has_the_score_on_test_or_what_selected_it(make, tmp_path):
    evaluated = describe(make(tmp_path / "a", "evaluated run"))
    assert (evaluated.score, evaluated.scored, evaluated.codec) == (22.5, "test accuracy", "int8")
    finished = describe(make(tmp_path / "b", "finished run"))
    assert (finished.score, finished.scored) == (53.75, "val accuracy")
    assert describe(make(tmp_path / "c", "unfinished run")).score is None


def test_a_damaged_store_is_listed(make, tmp_path):
    store = make(tmp_path / "a.zarr", "finished store")
    (store / "zarr.json").write_text("{}")
    assert describe(store).state == "damaged"


def test_size_is_what_the_disk_gives_and_follows_no_link(tmp_path):
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(10 << 20)
    assert bytes_on_disk(tmp_path / "hole") < 1 << 20
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(100_000))
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    (folder / "link").symlink_to(tmp_path / "big")
    assert 100_000 <= bytes_on_disk(folder) < 200_000


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        list_entries([tmp_path / "nosuch"])


def test_a_usual_folder_may_be_a_link_to_another_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to("disk")
    (tmp_path / "runs").mkdir()
    assert [str(folder) for folder in usual_folders()] == [str(tmp_path / "disk"), "runs"]
