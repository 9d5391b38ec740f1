from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import Clip, MediaDataset, open_dataset
from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import MediaError
from tests.datasets.media.containers import KINDS, burst_times, grey_number, whole_video, write_video

LAYOUTS = ["frames_root", "mp4_root"]


@pytest.fixture
def copied(frames_root: Path, tmp_path: Path) -> Path:
    """A copy of the data set in frames and .wav files, to break."""
    root = tmp_path / "AVE"
    shutil.copytree(frames_root, root)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_data_set_has_no_problems(layout: str, deep: bool, request: pytest.FixtureRequest) -> None:
    assert open_dataset("ave", request.getfixturevalue(layout)).problems(deep=deep) == []


def test_everything_missing_is_listed_with_clip_path_and_what(copied: Path) -> None:
    dataset = open_dataset("ave", copied)
    a, b, c, d, e, _ = dataset.clips
    shutil.rmtree(a.frames)
    a.audio.unlink()
    b.audio.write_bytes(b"")
    for picture in c.frames.iterdir():
        picture.unlink()
    (d.frames / "00000004.jpg").write_bytes(b"")
    (e.frames / "00000004.jpg").unlink()
    problems = open_dataset("ave", copied).problems()
    assert [(problem.clip, problem.path, problem.what.split(" (")[0].split(":")[0]) for problem in problems] == [
        (a.id, a.frames, "is missing"),
        (a.id, copied / "wave" / f"{a.id}.wav", "is missing"),
        (b.id, b.audio, "is empty"),
        (c.id, c.frames, "holds no pictures"),
        (d.id, d.frames / "00000004.jpg", "is empty"),
        (e.id, e.frames, "a picture is missing after 00000003.jpg"),
    ]
    assert str(problems[0]) == f"{a.id}: {a.frames}: is missing"
    assert open_dataset("ave", copied).problems(deep=True) == problems


def test_folders_of_another_number_of_pictures_are_one_note(copied: Path) -> None:
    """A video of six seconds in one picture a second is spread over ten, while its sound is not."""
    dataset = open_dataset("ave", copied)
    whole = dataset.notes
    for clip, left in zip(dataset.clips, (6, 9), strict=False):
        for number in range(left + 1, 11):
            (clip.frames / f"{number:08d}.jpg").unlink()
    assert dataset.problems() == []
    assert dataset.notes[len(whole) :] == (
        "2 of 6 clips hold another number of pictures than their 10 seconds (6 in 1, 9 in 1), such as "
        f"{dataset.clips[0].id}: they are spread over all seconds, the first and the last included, whenever they were "
        "taken",
    )
    seen = dataset.load_frames(dataset.clips[0])
    assert [next(at for at, other in enumerate(seen) if other is frame) for frame in seen] == [
        0,
        0,
        2,
        2,
        4,
        4,
        6,
        6,
        8,
        9,
    ]
    assert open_dataset("ave", copied).notes == dataset.notes


def test_the_deep_look_also_finds_what_does_not_open(copied: Path) -> None:
    dataset = open_dataset("ave", copied)
    first, second, *_ = dataset.clips
    (first.frames / "00000001.jpg").write_bytes(b"no picture")
    second.audio.write_bytes(second.audio.read_bytes()[:1000])
    assert dataset.problems() == []
    assert [(problem.clip, problem.what[:13]) for problem in dataset.problems(deep=True)] == [
        (first.id, "is text ('no "),
        (second.id, "is cut off: i"),
    ]


def test_a_missing_or_unreadable_video_is_one_problem(mp4_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "AVE"
    shutil.copytree(mp4_root, root)
    first, second, *_ = open_dataset("ave", root).clips
    first.frames.unlink()
    second.frames.write_bytes(b"no video at all")
    dataset = open_dataset("ave", root)
    assert [(problem.clip, problem.what) for problem in dataset.problems()] == [(first.id, "is missing")]
    deep = dataset.problems(deep=True)
    assert [problem.clip for problem in deep] == [first.id, second.id]
    assert deep[1].what.startswith("cannot be decoded")


def test_a_file_where_the_folder_of_a_clip_should_be(copied: Path) -> None:
    clip = open_dataset("ave", copied).clips[0]
    shutil.rmtree(clip.frames)
    clip.frames.write_text("x")
    dataset = open_dataset("ave", copied)
    assert [problem.what for problem in dataset.problems()] == ["is a file where a folder should be"]
    with pytest.raises(MediaError, match="is a file where a folder should be"):
        dataset.load_frames(clip)


def test_media_behind_links_are_used(copied: Path, tmp_path: Path) -> None:
    plain = open_dataset("ave", copied)
    digests = [plain.source_digest(clip) for clip in plain.clips]
    (copied / "wave").rename(tmp_path / "other-disk")
    (copied / "wave").symlink_to(tmp_path / "other-disk")
    linked = open_dataset("ave", copied)
    assert linked.problems(deep=True) == []
    assert [linked.source_digest(clip) for clip in linked.clips] == digests
    assert linked.decode_policy == plain.decode_policy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_get_what_one_thread_gets(layout: str, request: pytest.FixtureRequest) -> None:
    dataset = open_dataset("ave", request.getfixturevalue(layout))

    def read(clip: Clip) -> tuple[bytes, bytes, str]:
        pixels = np.stack(dataset.load_frames(clip)).tobytes()
        return pixels, dataset.load_waveform(clip, 32_000).tobytes(), dataset.source_digest(clip)

    expected = [read(clip) for clip in dataset.clips]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, dataset.clips * 4)) == expected * 4


def test_a_data_set_can_be_sent_to_another_process(frames_root: Path) -> None:
    dataset = open_dataset("ave", frames_root)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert isinstance(copy, MediaDataset)
    assert copy.clips == dataset.clips
    assert copy.source_digest(copy.clips[1]) == dataset.source_digest(dataset.clips[1])


def test_a_mixture_uses_both_kinds_of_place(tmp_path: Path) -> None:
    write_demo_ave(tmp_path / "AVE", train=2, val=1, test=1, layout="mixed")
    dataset = open_dataset("ave", tmp_path / "AVE")
    assert dataset.decode_policy["places"] == {
        "frames": ["frames/{id}/*.jpg", "AVE/{id}.mp4"],
        "audio": ["wave/{id}.wav", "AVE/{id}.mp4"],
    }
    assert [len(dataset.load_frames(clip)) for clip in dataset.clips] == [10] * 4
    assert len({len(dataset.load_waveform(clip, 32_000)) // 3200 for clip in dataset.clips}) == 1


def test_layouts_of_the_field_give_the_same_arrays(frames_root: Path, tmp_path: Path) -> None:
    """DG-SCT's folders and LAVISH's hold the same media under other names and numbers."""
    dataset = open_dataset("ave", frames_root)
    root = tmp_path / "AVE"
    shutil.copytree(frames_root, root, ignore=shutil.ignore_patterns("frames", "wave"))
    for clip in dataset.clips:
        folder = root / "video_frames" / clip.id
        folder.mkdir(parents=True)
        for picture in clip.frames.iterdir():
            shutil.copy(picture, folder / f"{int(picture.stem):04d}.jpg")
    shutil.copytree(frames_root / "wave", root / "raw_audio")
    lavish = open_dataset("ave", root)
    assert lavish.problems(deep=True) == []
    assert lavish.decode_policy["places"] == {
        "frames": ["video_frames/{id}/*.jpg"],
        "audio": ["raw_audio/{id}.wav"],
    }
    for ours, theirs in zip(dataset.clips, lavish.clips, strict=True):
        np.testing.assert_array_equal(dataset.load_frames(ours), lavish.load_frames(theirs))
        assert dataset.source_digest(ours) == lavish.source_digest(theirs)


def test_videos_of_any_container_and_ending(mp4_root: Path, tmp_path: Path) -> None:
    """As yt-dlp and cameras leave them: the key stays that of the published files, and nothing is missing."""
    root = tmp_path / "AVE"
    shutil.copytree(mp4_root, root)
    published = open_dataset("ave", root)
    endings = [("webm", ".webm"), ("mkv-aac", ".MP4"), ("ts", ".mp4"), ("flv", ".flv")]
    for clip, (kind, ending) in zip(published.clips, endings, strict=False):
        clip.frames.unlink()
        clip.frames.with_suffix(ending).write_bytes(whole_video(kind))
    dataset = open_dataset("ave", root)
    assert dataset.problems(deep=True) == []
    assert dataset.notes == ()
    assert dataset.decode_policy == published.decode_policy
    for clip, (kind, _) in zip(dataset.clips, endings, strict=False):
        shown = [grey_number(picture) for picture in dataset.load_frames(clip)]
        assert [number // 4 for number in shown] == list(range(10))
        times = burst_times(dataset.load_waveform(clip, 16_000), 16_000)
        assert times == pytest.approx([0.2 + second for second in range(10)], abs=0.08), kind
    dataset.clips[0].frames.with_suffix(".mp4").write_bytes(whole_video("mp4"))
    (note,) = open_dataset("ave", root).notes
    assert note.startswith("clips with several files of one kind: 1, such as")


def test_short_videos_are_counted_in_a_note(mp4_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "AVE"
    shutil.copytree(mp4_root, root)
    dataset = open_dataset("ave", root)
    write_video(dataset.clips[0].frames, KINDS["fragments"], seconds=6)
    assert dataset.problems(deep=True) == []
    first, count = dataset.clips[0].id, len(dataset.clips)
    assert dataset.notes == (
        f"1 of {count} clips have a video that ends before their 10 s are over (6 s in 1), such as {first}: "
        "its last picture stands for the rest",
        f"1 of {count} clips have a sound track that ends before their 10 s are over (6 s in 1), such as {first}: "
        "each backbone treats a short recording as its published code does",
    )
