from __future__ import annotations

from pathlib import Path

import pytest

from mettle_cache.datasets.media.places import Layout, Place, locate_media
from mettle_cache.errors import DatasetError

LAYOUT = Layout(
    frames=(Place("frames"), Place("videos", ".mp4")),
    audio=(Place("wave", ".npy"), Place("wave", ".wav"), Place("videos", ".mp4")),
)


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if not path.suffix else path.touch()


def test_each_modality_takes_the_first_place_that_has_the_id(tmp_path: Path) -> None:
    _touch(tmp_path, "frames/a", "wave/a.npy", "wave/a.wav", "frames/b", "wave/b.wav", "videos/b.mp4", "videos/c.mp4")
    _touch(tmp_path, "frames/d", "videos/d.mp4")
    media = locate_media(tmp_path, ["a", "b", "c", "d"], LAYOUT)
    found = [
        (clip.frames.relative_to(tmp_path).as_posix(), clip.audio.relative_to(tmp_path).as_posix())
        for clip in media.clips
    ]
    assert found == [
        ("frames/a", "wave/a.npy"),
        ("frames/b", "wave/b.wav"),
        ("videos/c.mp4", "videos/c.mp4"),
        ("frames/d", "videos/d.mp4"),
    ]
    assert media.patterns == {
        "frames": ["frames/{id}/*.jpg", "videos/{id}.mp4"],
        "audio": ["wave/{id}.npy", "wave/{id}.wav", "videos/{id}.mp4"],
    }


def test_a_missing_id_is_expected_where_most_others_are(tmp_path: Path) -> None:
    _touch(tmp_path, "videos/a.mp4", "videos/b.mp4", "frames/c", "wave/c.npy")
    media = locate_media(tmp_path, ["a", "b", "c", "gone"], LAYOUT)
    assert (media.clips[3].frames, media.clips[3].audio) == (tmp_path / "videos/gone.mp4", tmp_path / "videos/gone.mp4")


def test_an_empty_root_expects_the_preferred_layout_and_uses_no_place(tmp_path: Path) -> None:
    media = locate_media(tmp_path, ["a"], LAYOUT)
    assert (media.clips[0].frames, media.clips[0].audio) == (tmp_path / "frames/a", tmp_path / "wave/a.npy")
    assert media.patterns == {"frames": [], "audio": []}


def test_media_of_other_ids_do_not_change_which_places_are_in_use(tmp_path: Path) -> None:
    _touch(tmp_path, "frames/a", "wave/a.npy", "videos/unrelated.mp4")
    assert locate_media(tmp_path, ["a"], LAYOUT).patterns == {
        "frames": ["frames/{id}/*.jpg"],
        "audio": ["wave/{id}.npy"],
    }


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    _touch(tmp_path, "a.txt")
    (tmp_path / "a.txt").rename(tmp_path / "frames")
    with pytest.raises(DatasetError, match="frames is a file where a folder of media should be"):
        locate_media(tmp_path, ["a"], LAYOUT)
    (tmp_path / "frames").unlink()
    (tmp_path / "frames").symlink_to("frames")
    with pytest.raises(DatasetError, match="frames cannot be listed: Too many levels"):
        locate_media(tmp_path, ["a"], LAYOUT)
