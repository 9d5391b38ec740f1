from __future__ import annotations

from pathlib import Path

import pytest

from mettle_cache.datasets.media.places import Layout, Place, find_recordings, locate_media
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


@pytest.mark.parametrize(
    "name", ["a.webm", "a.mkv", "a.MP4", "a.mov", "a.avi", "a.m4v", "a.ts", "a.flv", "a.MKV", "a.Mov", "a.3gp", "a.wmv"]
)
def test_a_video_of_any_ending_is_found_where_mp4_is_published(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, f"videos/{name}")
    media = locate_media(tmp_path, ["a"], LAYOUT)
    assert (media.clips[0].frames, media.clips[0].audio) == (tmp_path / "videos" / name, tmp_path / "videos" / name)
    # what is in it decides its bytes, not how it is called
    assert media.patterns == {"frames": ["videos/{id}.mp4"], "audio": ["videos/{id}.mp4"]}
    assert media.notes == ()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *((name, "wave/{id}.wav") for name in ("a.WAV", "a.flac", "a.mp3", "a.ogg", "a.opus", "a.FLAC", "a.aiff")),
        *((name, "wave/{id}.m4a") for name in ("a.m4a", "a.M4A", "a.aac", "a.mka", "a.weba", "a.wma")),
        ("a.NPY", "wave/{id}.npy"),
    ],
)
def test_a_recording_of_any_ending_is_found_where_wav_is_published(tmp_path: Path, name: str, pattern: str) -> None:
    _touch(tmp_path, f"wave/{name}")
    media = locate_media(tmp_path, ["a"], LAYOUT)
    assert media.clips[0].audio == tmp_path / "wave" / name
    assert media.patterns["audio"] == [pattern]


def test_of_several_files_the_published_one_serves_and_a_note_says_so(tmp_path: Path) -> None:
    _touch(tmp_path, "videos/a.webm", "videos/a.mp4", "videos/a.MP4", "videos/b.flv", "videos/b.mkv", "videos/c.mp4")
    _touch(tmp_path, "wave/c.m4a", "wave/c.flac")
    media = locate_media(tmp_path, ["a", "b", "c"], LAYOUT)
    assert [clip.frames.name for clip in media.clips] == ["a.mp4", "b.mkv", "c.mp4"]
    assert [clip.audio.name for clip in media.clips] == ["a.mp4", "b.mkv", "c.flac"]
    assert media.notes == (
        "clips with several files of one kind: 3, such as a.mp4 beside a.MP4, a.webm; b.mkv beside b.flv; "
        "c.flac beside c.m4a: the first is read, the others are not",
    )


def test_what_downloaders_leave_beside_a_video_is_none(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"videos/a{ending}" for ending in (".mp4.part", ".f137.mp4", ".jpg", ".info.json", ".en.vtt")))
    _touch(tmp_path, "videos/a_b.mp4", "videos/.a.mp4")
    assert locate_media(tmp_path, ["a"], LAYOUT).patterns == {"frames": [], "audio": []}


def test_recordings_at_fixed_paths(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.wav", "x/a.flac", "y/b.M4A", "y/c.txt")
    asked = [tmp_path / "x/a.wav", tmp_path / "y/b.wav", tmp_path / "y/c.wav", tmp_path / "z/d.wav"]
    found = [tmp_path / "x/a.wav", tmp_path / "y/b.M4A", tmp_path / "y/c.wav", tmp_path / "z/d.wav"]
    assert find_recordings(asked) == found
