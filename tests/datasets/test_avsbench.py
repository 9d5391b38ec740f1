"""AVSBench in both published layouts: one clip a frame, masks in the samples, and every way to break the files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mettle_cache.datasets import Clip, Dataset, open_dataset
from mettle_cache.datasets.avsbench_masks import PACKED_BYTES
from mettle_cache.errors import DatasetError, MediaError
from tests.datasets.avsbench_files import MS3_ROWS, S4_ROWS, rectangle, save_picture, sound, write_ms3, write_s4
from tests.datasets.media.containers import KINDS, write_video

FRAMES = 5


@pytest.fixture(scope="session")
def s4_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only."""
    return write_s4(tmp_path_factory.mktemp("avs") / "AVSBench_data")


@pytest.fixture(scope="session")
def ms3_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only."""
    return write_ms3(tmp_path_factory.mktemp("avs") / "AVSBench_data")


@pytest.fixture
def s4(s4_root: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(s4_root, tmp_path / "AVSBench_data"))


@pytest.fixture
def ms3(ms3_root: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(ms3_root, tmp_path / "AVSBench_data"))


def unpack(mask: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(mask, np.uint8)).reshape(224, 224).astype(bool)


@pytest.mark.parametrize(("train_frames", "stored"), [("1", 1), ("5", 5)])
def test_a_frame_is_a_clip_and_a_training_video_of_s4_is_one_frame(
    s4_root: Path, train_frames: str, stored: int
) -> None:
    dataset = open_dataset("avs-s4", s4_root, {"train_frames": train_frames})
    assert (dataset.segments, dataset.media_segments) == (1, FRAMES)
    assert dataset.problems(deep=True) == []
    samples = dataset.samples.to_pylist()
    assert [(s["row"], s["clip"], s["split"], s["category"]) for s in samples] == [
        (number, video, split, category) for number, (video, _, category, split) in enumerate(S4_ROWS)
    ]
    for seed, sample in enumerate(samples):
        count = stored if sample["split"] == "train" else FRAMES
        assert sample["clips"] == [f"{sample['clip']}_{k}" for k in range(1, count + 1)]
        masks = [unpack(mask) for mask in sample["masks"]]
        assert len(masks) == (1 if sample["split"] == "train" else FRAMES)
        for k, mask in enumerate(masks, start=1):
            assert np.array_equal(mask, rectangle(10 * seed + k))
    assert [clip.id for clip in dataset.clips] == [clip for sample in samples for clip in sample["clips"]]


def test_ms3_has_mp4_in_the_names_of_frames_and_masks_for_all(ms3_root: Path) -> None:
    dataset = open_dataset("avs-ms3", ms3_root)
    assert dataset.problems(deep=True) == []
    assert len(dataset.clips) == FRAMES * len(MS3_ROWS)
    clip = dataset.clips[6]
    assert clip.id == "fffffffffff_2"
    assert clip.frames == ms3_root / "Multi-sources/ms3_data/visual_frames/fffffffffff/fffffffffff.mp4_2.png"
    assert clip.audio == ms3_root / "Multi-sources/ms3_data/wave/val/AVS.npy"
    assert {len(masks) for masks in dataset.samples["masks"].to_pylist()} == {FRAMES}
    assert set(dataset.samples["category"].to_pylist()) == {""}


def test_a_clip_s_media_are_its_frame_and_all_of_the_video_s_sound(s4_root: Path) -> None:
    dataset = open_dataset("avs-s4", s4_root)
    clip = next(clip for clip in dataset.clips if clip.id == "-cccccccccc_2000_7000_3")
    assert clip.segment == 2
    (picture,) = dataset.load_frames(clip)
    assert np.array_equal(picture, np.asarray(Image.open(clip.frames)))
    assert np.array_equal(dataset.load_waveform(clip, 32_000), sound(2))
    assert dataset.load_waveform(clip, 16_000).shape == (80_000,)


def test_without_avs_npy_the_recordings_serve(tmp_path: Path) -> None:
    dataset = open_dataset("avs-s4", write_s4(tmp_path, waves=False))
    assert dataset.problems(deep=True) == []
    assert dataset.clips[0].audio.suffix == ".wav"
    heard = dataset.load_waveform(dataset.clips[0], 16_000)
    np.testing.assert_allclose(heard, 0.75 * sound(0)[::2], atol=1e-4)
    assert dataset.load_waveform(dataset.clips[0], 32_000).shape == (160_000,)
    assert "wav" in dataset.decode_policy


def test_a_recording_is_the_first_channel_as_the_file_has_it(tmp_path: Path) -> None:
    dataset = open_dataset("avs-s4", write_s4(tmp_path, waves=False))
    clip = dataset.clips[0]
    channels, rate = soundfile.read(clip.audio, dtype="float32")
    soundfile.write(clip.audio, channels, 44_100)
    recording = dataset.load_recording(clip, 16_000)
    assert (recording.rate, rate) == (44_100, 16_000)
    np.testing.assert_array_equal(recording.samples, channels[:, 0])


def test_where_there_are_both_sound_files_can_be_preferred(s4: Path) -> None:
    write_s4(s4, waves=False)
    dataset = open_dataset("avs-s4", s4)
    assert {clip.audio.suffix for clip in dataset.clips} == {".npy"}
    assert dataset.load_recording(dataset.clips[0], 16_000).rate == 16_000
    gone = s4 / "Single-source/s4_data/audio_wav/train/dog_barking/aaaaaaaaaaa_0_5000.wav"
    gone.unlink()
    preferring = dataset.preferring_sound_files()
    assert [clip.audio.suffix for clip in preferring.clips] == [".npy", *[".wav"] * 11]
    assert preferring.decode_policy != dataset.decode_policy
    assert preferring.problems(deep=True) == []
    assert preferring.source_digest(preferring.clips[1]) != dataset.source_digest(dataset.clips[1])
    assert preferring.samples.equals(dataset.samples)


def test_recordings_of_other_endings(tmp_path: Path) -> None:
    root = write_s4(tmp_path, waves=False)
    published = open_dataset("avs-s4", root)
    recordings = list(dict.fromkeys(clip.audio for clip in published.clips))
    heard = {path.stem: published.load_waveform(Clip("a", path, path), 16_000) for path in recordings}
    samples, rate = soundfile.read(recordings[0])
    recordings[0].unlink()
    soundfile.write(recordings[0].with_suffix(".flac"), samples, rate)
    recordings[1].rename(recordings[1].with_suffix(".WAV"))
    dataset = open_dataset("avs-s4", root)
    assert dataset.problems(deep=True) == []
    assert {clip.audio.suffix for clip in dataset.clips} >= {".flac", ".WAV"}
    for clip in dataset.clips:
        np.testing.assert_array_equal(dataset.load_waveform(clip, 16_000), heard[clip.audio.stem])
    assert dataset.decode_policy == published.decode_policy
    # sound in a container is another library's, and the key says so
    write_video(recordings[0].with_suffix(".m4a"), KINDS["mp4"], seconds=5)
    recordings[0].with_suffix(".flac").unlink()
    with_track = open_dataset("avs-s4", root)
    assert with_track.problems(deep=True) == []
    assert len(with_track.load_waveform(with_track.clips[0], 16_000)) == pytest.approx(80_000, abs=1000)
    assert "track" in with_track.decode_policy


def test_the_digest_is_of_what_is_decoded(s4: Path) -> None:
    dataset = open_dataset("avs-s4", s4)
    digests = [dataset.source_digest(clip) for clip in dataset.clips]
    assert len(set(digests)) == len(digests)
    first = dataset.clips[0]
    save_picture(first.frames, np.zeros((224, 224, 3), np.uint8))
    changed = [open_dataset("avs-s4", s4).source_digest(clip) for clip in dataset.clips]
    assert [a != b for a, b in zip(digests, changed, strict=True)] == [True] + [False] * (len(digests) - 1)


def test_a_frame_is_decoded_from_its_picture_and_the_file_of_its_sound(s4: Path) -> None:
    dataset = open_dataset("avs-s4", s4)
    for clip in dataset.clips:
        assert dataset.source_files(clip) == (clip.frames, clip.audio)
        assert all(path.is_file() for path in dataset.source_files(clip))


def test_places_and_roots_do_not_change_the_policy(s4_root: Path, s4: Path, tmp_path: Path) -> None:
    policy = open_dataset("avs-s4", s4_root).decode_policy
    assert open_dataset("avs-s4", s4).decode_policy == policy
    assert str(s4_root) not in str(policy)
    assert open_dataset("avs-s4", write_s4(tmp_path / "w", waves=False)).decode_policy != policy


def listed(dataset: Dataset, *, deep: bool = False) -> list[tuple[str, str, str]]:
    return [(p.clip, p.path.name, p.what) for p in dataset.problems(deep=deep)]


def test_everything_missing_is_listed_with_the_line_of_the_table(s4: Path) -> None:
    data = s4 / "Single-source" / "s4_data"
    video = "_dddddddddd_3000_8000"
    (data / "visual_frames/test/dog_barking" / video / f"{video}_2.png").unlink()
    (data / "gt_masks/test/dog_barking" / video / f"{video}_4.png").unlink()
    (data / "gt_masks/test/dog_barking" / video / f"{video}_5.png").write_bytes(b"")
    (data / "wave/val/dog_barking/AVS.npy").unlink()
    dataset = open_dataset("avs-s4", s4)
    assert listed(dataset) == [
        *(
            (f"-cccccccccc_2000_7000_{k}", "-cccccccccc_2000_7000.wav", "is missing (s4_meta_data.csv:4)")
            for k in range(1, 6)
        ),
        (f"{video}_2", f"{video}_2.png", "is missing (s4_meta_data.csv:5)"),
        (f"{video}_4", f"{video}_4.png", "is missing (s4_meta_data.csv:5)"),
        (f"{video}_5", f"{video}_5.png", "is empty (0 bytes) (s4_meta_data.csv:5)"),
    ]
    masks = dataset.samples["masks"].to_pylist()[3]
    assert [len(mask) for mask in masks] == [PACKED_BYTES] * 3 + [0, 0]


@pytest.mark.parametrize(
    ("pixels", "what"),
    [
        (np.zeros((100, 224), np.uint8), "is 224 x 100 pixels, not 224 x 224 (ms3_meta_data.csv:2)"),
        (np.zeros((224, 448, 3), np.uint8), "is 448 x 224 pixels, not 224 x 224 (ms3_meta_data.csv:2)"),
    ],
)
def test_a_mask_of_another_size_is_named_with_file_and_row(ms3: Path, pixels: np.ndarray, what: str) -> None:
    save_picture(ms3 / "Multi-sources/ms3_data/gt_masks/train/eeeeeeeeeee/eeeeeeeeeee_3.png", pixels)
    assert listed(open_dataset("avs-ms3", ms3)) == [("eeeeeeeeeee_3", "eeeeeeeeeee_3.png", what)]


def test_grey_masks_are_foreground_where_not_black_and_a_note_says_so(ms3: Path) -> None:
    grey = np.zeros((224, 224), np.uint8)
    grey[:10], grey[10:20] = 255, 3
    path = ms3 / "Multi-sources/ms3_data/gt_masks/train/eeeeeeeeeee/eeeeeeeeeee_1.png"
    save_picture(path, grey)
    dataset = open_dataset("avs-ms3", ms3)
    assert dataset.problems() == []
    assert np.array_equal(unpack(dataset.samples["masks"].to_pylist()[0][0]), grey > 0)
    assert dataset.notes == (
        "1 masks have more than two grey levels (eeeeeeeeeee_1.png): all that is not black is foreground",
    )


def test_pictures_that_can_be_transparent_are_told(s4: Path) -> None:
    dataset = open_dataset("avs-s4", s4)
    path = dataset.clips[0].frames
    Image.open(path).convert("RGBA").save(path)
    assert (dataset.problems(), dataset.notes) == ([], ())
    assert (dataset.problems(deep=True), dataset.notes) == (
        [],
        (
            f"1 of {len(dataset.clips)} clips hold pictures that can be transparent, such as aaaaaaaaaaa_0_5000_1: "
            "their colours are read without that, as published",
        ),
    )


def test_the_deep_look_finds_what_does_not_open(s4: Path) -> None:
    dataset = open_dataset("avs-s4", s4)
    dataset.clips[0].frames.write_bytes(b"no picture")
    assert listed(dataset) == []
    assert [problem[0] for problem in listed(dataset, deep=True)] == [dataset.clips[0].id]
    with pytest.raises(MediaError, match="not a JPEG, PNG, WebP or BMP picture"):
        dataset.load_frames(dataset.clips[0])


def test_a_bad_wave_file_is_named_for_each_of_its_clips(s4: Path) -> None:
    path = s4 / "Single-source/s4_data/wave/train/dog_barking/AVS.npy"
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    found = listed(open_dataset("avs-s4", s4))
    assert found == [
        (
            "aaaaaaaaaaa_0_5000_1",
            "AVS.npy",
            "is not a dict of arrays: it is no .npy file (s4_meta_data.csv:2)",
        )
    ]


def rewrite(root: Path, text: str, *, table: str = "Single-source/s4_meta_data.csv") -> Path:
    (root / table).write_text(text)
    return root


def test_a_table_without_header_and_with_windows_ends(s4: Path) -> None:
    rows = [",".join(map(str, row)) for row in S4_ROWS]
    expected = open_dataset("avs-s4", s4).samples
    assert open_dataset("avs-s4", rewrite(s4, "\r\n".join(rows))).samples.equals(expected)
    renamed = ["video,begin,class,split", *rows]
    assert open_dataset("avs-s4", rewrite(s4, "\n".join(renamed))).samples.equals(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,category,split\na,b,train\n", r"s4_meta_data.csv:1: 3 columns, not 4 \(name, start, category, split\)"),
        ("../x,0,dog,train\n", r"s4_meta_data.csv:1: the id '../x' is not 1 to 64 letters"),
        ("a,0,../dog,train\n", r"s4_meta_data.csv:1: the category '../dog' is not 1 to 64 letters"),
        ("a,0,dog,dev\n", r"s4_meta_data.csv:1: the split 'dev' is none of train, val, test"),
        ("a,0,dog,train\na,1,cat,test\n", r"s4_meta_data.csv:2: the same video as in line 1"),
        ('a,0,"dog,train\n', r"s4_meta_data.csv:1: not comma-separated values"),
        ("name,start,category,split\n", r"s4_meta_data.csv: holds no rows"),
        ("\xff\xfe,0,dog,train", r"s4_meta_data.csv:1: the id "),
    ],
)
def test_a_broken_table_is_named_with_its_line(s4: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset("avs-s4", rewrite(s4, text))


def test_every_problem_of_a_table_in_one_message(ms3: Path) -> None:
    rewrite(ms3, "name,split\n../a,train\nb\nc,dev\n", table="Multi-sources/ms3_meta_data.csv")
    with pytest.raises(DatasetError) as caught:
        open_dataset("avs-ms3", ms3)
    assert caught.value.message.count("ms3_meta_data.csv:") == 3


def test_the_root_of_another_level_is_suggested(s4: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"there is no Single-source/s4_meta_data.csv in .*\n  next: --root .*AVSBench_data"
    ):
        open_dataset("avs-s4", s4.parent)
    with pytest.raises(DatasetError, match=r"next: --root .*AVSBench_data$"):
        open_dataset("avs-s4", s4 / "Single-source")
    with pytest.raises(
        DatasetError, match=r"there is no Multi-sources/ms3_meta_data.csv in .*\n  next: give the folder"
    ):
        open_dataset("avs-ms3", s4)


def test_a_clip_without_its_wave_file(s4: Path) -> None:
    dataset = open_dataset("avs-s4", s4)
    gone = dataclasses.replace(dataset.clips[0])
    gone.audio.unlink()
    with pytest.raises(MediaError, match=r"AVS.npy: is missing"):
        dataset.load_waveform(gone, 32_000)
