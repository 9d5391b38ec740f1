"""What is found before the work starts: room on the right disk, every missing file up to a screenful."""

import shutil

import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import DatasetError, NoRoomError
from mettle_cache.pipelines.extract.preflight import LISTED, check_room, find_missing, free_bytes
from tests.pipelines.extraction import tiny, write_clips


def test_free_bytes_are_those_of_the_disk_that_will_hold_it(tmp_path):
    there = shutil.disk_usage(tmp_path).free
    assert free_bytes(tmp_path / "a" / "b" / "store.zarr") == pytest.approx(there, rel=0.05)


def test_room_counts_a_margin(tmp_path, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.extract.preflight.free_bytes", lambda path: 1000)
    check_room(tmp_path, 900)
    with pytest.raises(NoRoomError, match=r"still needs 2\.0 kB, but 1\.0 kB are free"):
        check_room(tmp_path, 1990)
    with pytest.raises(NoRoomError):
        check_room(tmp_path, 990)


@pytest.fixture
def root(tmp_path):
    return write_clips(tmp_path / "AVE", train=LISTED + 4)


def test_a_long_list_ends_with_a_count(root, tmp_path):
    for folder in ("frames", "wave", "AVE"):
        shutil.rmtree(root / folder)
    dataset, config = open_dataset("ave", root), tiny(root, tmp_path / "s.zarr")
    with pytest.raises(DatasetError) as caught:
        find_missing(dataset, config, config.out)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith(f"{LISTED + 6} of {LISTED + 6} clips")
    assert lines[-1].endswith("more")
    assert len(lines) == LISTED + 2
    skipping = tiny(root, tmp_path / "s.zarr", skip_missing=True)
    reasons = find_missing(dataset, skipping, skipping.out)
    assert list(reasons) == [clip.id for clip in dataset.clips]
    assert not any(str(tmp_path) in reason for reason in reasons.values())


def test_only_the_parts_own_clips_matter(root, tmp_path):
    dataset = open_dataset("ave", root)
    first = dataset.clips[0]
    for path in {first.frames, first.audio}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dataset, mine = open_dataset("ave", root), tiny(root, tmp_path / "s.zarr", part=(0, 2))
    with pytest.raises(DatasetError, match="1 of 13 clips"):
        find_missing(dataset, mine, mine.out)
    other = tiny(root, tmp_path / "s.zarr", part=(1, 2))
    assert find_missing(dataset, other, other.out) == {}
