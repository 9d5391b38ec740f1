"""What is removed is what was listed, and nothing else changes, whatever the folders hold."""

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.inventory.cleaning import find_removals, remove
from mettle_cache.store import verify_store

KINDS = ("finished store", "leftover store", "unfinished store", "foreign store")
KINDS += ("finished run", "evaluated run", "unfinished run", "damaged run", "foreign run")
PLACES = ("cache/a.zarr", "cache/b.zarr", "runs/one", "runs/sweep/x/seed-0", "other/deep/c.zarr")


def snapshot(root):
    """Every path below a folder with its content or where it leads."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def beneath(path, removed):
    return any(path == one or one in path.parents for one in removed)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.fixed_dictionaries({}, optional={place: st.sampled_from(KINDS) for place in PLACES}),
    named=st.lists(st.sampled_from(("cache", "runs", "other", *PLACES)), min_size=1, max_size=3, unique=True),
    links=st.lists(st.sampled_from(PLACES), max_size=2, unique=True),
    flags=st.tuples(st.booleans(), st.booleans()),
    busy=st.sampled_from((None, *PLACES)),
)
def test_nothing_but_the_listed_paths_changes(make, kinds, named, links, flags, busy):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        outside = make(root / "outside" / "z.zarr", "leftover store")
        for place, kind in kinds.items():
            make(root / "work" / place, kind)
        for number, place in enumerate(links):
            # links into what may go, and from there to what must not
            if (root / "work" / place).is_dir():
                (root / "work" / place / f"link-{number}").symlink_to(outside)
                (root / "work" / place / f"x-{number}.partial").symlink_to(outside / "READY")
        with _held(root / "work" / busy) if busy in kinds else nullcontext():
            _clean_and_compare(root, kinds, named, flags, busy)
        assert (outside / "READY").exists()


def _clean_and_compare(root, kinds, named, flags, busy):
    places = [root / "work" / place for place in named if (root / "work" / place).is_dir()]
    before = snapshot(root)
    try:
        removals = find_removals(places, companions=flags[0], checkpoints=flags[1])
    except UsageError:
        assert snapshot(root) == before
        return
    assert snapshot(root) == before
    cleaned = remove(removals)
    gone = [one.path for one in cleaned.removed]
    assert snapshot(root) == {path: content for path, content in before.items() if not beneath(path, gone)}
    for one in removals:
        assert (one.path in gone) != (one.path in cleaned.refused)
        assert one.busy == (one.path in cleaned.refused)
    for place, kind in kinds.items():
        path = root / "work" / place
        if place in named and place != busy and not kind.startswith("foreign"):
            assert not path.exists()
        else:
            _check_kept(path, kind)


def _check_kept(path, kind):
    """What was not named is there still, and a finished store is whole."""
    assert path.is_dir()
    if kind in ("finished store", "leftover store"):
        assert (path / "READY").exists()
    if kind.startswith(("unfinished store", "foreign store")):
        assert any(path.rglob("*.partial"))
    if kind.endswith("run"):
        assert (path / "best.safetensors").exists()
        assert (path / "last.safetensors.next").exists()
        if kind in ("unfinished run", "foreign run", "damaged run"):
            assert (path / "last.safetensors").exists()


@contextmanager
def _held(path):
    """A store or a run that is locked as its writer would."""
    lock = path / ".lock" if (path / "config.json").exists() else path / ".locks" / "part-0-of-1.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_leftovers_of_a_finished_store_go_and_it_is_whole(make, tmp_path):
    store = make(tmp_path / "a.zarr", "leftover store")
    (one,) = find_removals([tmp_path])
    assert (one.path.suffix, one.owner, one.what) == (".partial", store, "a file that a killed writer left")
    assert remove([one]).removed == [one]
    assert verify_store(store, deep=True).ok


def test_a_store_that_is_finished_no_more_keeps_what_may_be_its_clips(make, tmp_path):
    store = make(tmp_path / "a.zarr", "leftover store")
    removals = find_removals([tmp_path])
    (store / "READY").unlink()
    cleaned = remove(removals)
    assert "no longer finished" in cleaned.refused[removals[0].path]
    assert removals[0].path.exists()


def test_a_stores_runs_are_named(make, tmp_path):
    store = make(tmp_path / "a.zarr", "finished store")
    run = make(tmp_path / "runs" / "one", "finished run")
    (run / "config.json").write_text(
        (run / "config.json").read_text().replace("/stores/ave.zarr", str(store.resolve()))
    )
    (one,) = find_removals([store], runs=[tmp_path / "runs"])
    assert (one.what, one.remembered_by) == ("finished store", (run,))


def test_a_checkpoint_goes_only_where_it_is_asked_for_and_the_run_is_finished(make, tmp_path):
    for kind in ("finished run", "unfinished run"):
        make(tmp_path / kind, kind)
    assert not [one for one in find_removals([tmp_path]) if one.path.name == "last.safetensors"]
    asked = [
        one.owner.name for one in find_removals([tmp_path], checkpoints=True) if one.path.name == "last.safetensors"
    ]
    assert asked == ["finished run"]


def test_what_is_refused(make, tmp_path):
    store = make(tmp_path / "a.zarr", "finished store")
    (tmp_path / "link").symlink_to(store)
    foreign = make(tmp_path / "b.zarr", "foreign store")
    for place, said in (
        (tmp_path / "link", "is a link"),
        (tmp_path / "nosuch", "there is no folder"),
        (store / "commits", "is a part of the store"),
        (foreign, "is no token store"),
    ):
        with pytest.raises(UsageError, match=said):
            find_removals([place])


@pytest.mark.parametrize("outer", ["finished store", "finished run"])
@pytest.mark.parametrize("inner", ["finished store", "finished run"])
def test_what_holds_another_store_or_run_is_not_removed(make, tmp_path, outer, inner):
    make(tmp_path / "outer" / "mine" / "inner", inner)
    shutil.copytree(make(tmp_path / "whole", outer), tmp_path / "outer", dirs_exist_ok=True)
    with pytest.raises(UsageError, match=f"holds another store or run: {tmp_path}/outer/mine/inner"):
        find_removals([tmp_path / "outer"])


def test_what_holds_the_current_folder_is_not_removed(make, tmp_path, monkeypatch):
    run = make(tmp_path / "run", "finished run")
    (run / "src").mkdir()
    for folder, name in ((run, Path()), (run / "src", Path(".."))):
        monkeypatch.chdir(folder)
        with pytest.raises(UsageError, match="holds the current folder"):
            find_removals([name])


def test_a_store_stays_while_one_of_its_runs_is_trained(make, tmp_path):
    store = make(tmp_path / "a.zarr", "finished store")
    run = make(tmp_path / "runs" / "one", "unfinished run")
    (run / "config.json").write_text((run / "config.json").read_text().replace("/stores/ave.zarr", str(store)))
    with _held(run):
        (one,) = find_removals([store], runs=[tmp_path / "runs"])
        cleaned = remove([one])
    assert one.busy
    assert cleaned.refused == {store: f"{run} is in use: another process writes, trains or evaluates there"}
    assert verify_store(store, deep=True).ok


def test_what_the_system_refuses_is_told_and_the_rest_goes(make, tmp_path, monkeypatch):
    first, second = (make(tmp_path / name, "unfinished run") for name in "ab")
    remove_tree = shutil.rmtree

    def refuse_one(path):
        if path == first:
            raise PermissionError(13, "Permission denied")
        remove_tree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse_one)
    cleaned = remove(find_removals([first, second]))
    assert cleaned.refused == {first: "cannot be removed: Permission denied"}
    assert (first.exists(), second.exists()) == (True, False)
