"""A part of a data set: the first clips of each split make a store to train from, which a later run completes."""

import shutil
from types import SimpleNamespace

import pyarrow as pa
import pytest

from mettle_cache.errors import ConfigError
from mettle_cache.pipelines.extract.limit import clips_beyond
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.store import TokenStore, verify_store
from tests.pipelines.extraction import tiny, tree, write_clips


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data"), train=3, val=2, test=1)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    extract(tiny(root, out, clips_per_shard=2))
    return out


@pytest.fixture(scope="module")
def limited(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("limited") / "s.zarr"
    return out, extract(tiny(root, out, clips_per_shard=2, limit=1))


def data(*samples, clips=None):
    """A data set of samples (split, name, clips)."""
    names = dict.fromkeys(clip for _, _, of_sample in samples for clip in of_sample)
    columns = {"split": [one[0] for one in samples], "clip": [one[1] for one in samples]}
    columns["clips"] = [list(one[2]) for one in samples]
    return SimpleNamespace(clips=[SimpleNamespace(id=name) for name in clips or names], samples=pa.table(columns))


def test_the_first_of_each_split_are_taken_in_the_order_of_samples():
    samples = [("test", "z", ["z"]), ("train", "b", ["b"]), ("train", "a", ["a"]), ("train", "c", ["c"])]
    dataset = data(*samples, clips=["a", "b", "c", "z"])
    assert list(clips_beyond(dataset, 1)) == ["a", "c"]
    assert list(clips_beyond(dataset, 2)) == ["c"]
    assert clips_beyond(dataset, 3) == clips_beyond(dataset, None) == {}


def test_questions_of_one_video_count_once_and_the_frames_of_a_video_stay_together():
    questions = [("train", "v", ["v"]), ("train", "v", ["v"]), ("train", "w", ["w"]), ("train", "x", ["x"])]
    assert list(clips_beyond(data(*questions), 2)) == ["x"]
    frames = [("train", "v", ["v_0", "v_1"]), ("train", "w", ["w_0", "w_1"])]
    assert list(clips_beyond(data(*frames), 1)) == ["w_0", "w_1"]
    # a clip of two splits is taken where either of them wants it
    shared = [("train", "v", ["v"]), ("test", "w", ["w"]), ("test", "v", ["v"]), ("train", "w", ["w"])]
    assert clips_beyond(data(*shared), 1) == {}


def test_a_limited_store_is_finished_and_says_what_it_is(limited):
    out, report = limited
    assert (report.clips, report.written, report.failed, report.left_out, report.pending) == (6, 3, 0, 3, 0)
    assert report.ok
    assert report.finished
    assert report.failures == {}
    assert any("--limit 1 takes 3 of 6 clips" in note for note in report.notes)
    store = TokenStore.open(out)
    assert set(store.failed.values()) == {"left out by --limit 1"}
    splits = dict(zip(store.samples["clip"].to_pylist(), store.samples["split"].to_pylist(), strict=True))
    assert sorted(splits[clip] for clip in store.clips if clip not in store.failed) == ["test", "train", "val"]
    assert verify_store(out, deep=True).ok


def test_only_the_media_of_its_clips_are_looked_at(limited, root, tmp_path):
    store = TokenStore.open(limited[0])
    broken = shutil.copytree(root, tmp_path / "data")
    gone = next(iter(store.failed))
    for path in [*broken.rglob(f"*{gone}*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = extract(tiny(broken, tmp_path / "s.zarr", clips_per_shard=2, limit=1))
    assert tree(tmp_path / "s.zarr") == tree(limited[0])
    assert report.left_out == 3


def test_the_same_command_without_it_completes_the_store_to_the_same_bytes(limited, whole, root, tmp_path):
    out = shutil.copytree(limited[0], tmp_path / "s.zarr")
    more = extract(tiny(root, out, clips_per_shard=2, limit=2))
    assert (more.written, more.skipped, more.left_out) == (2, 3, 1)
    rest = extract(tiny(root, out, clips_per_shard=2))
    assert (rest.written, rest.skipped, rest.left_out) == (1, 5, 0)
    assert tree(out) == tree(whole)
    # a lower limit takes nothing away again
    again = extract(tiny(root, out, clips_per_shard=2, limit=1))
    assert (again.written, again.left_out) == (0, 0)
    assert tree(out) == tree(whole)


def test_no_clips_at_all_are_no_limit():
    with pytest.raises(ConfigError, match="--limit 0: must be 1 or more"):
        tiny("root", "s.zarr", limit=0)
