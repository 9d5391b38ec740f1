from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mettle_cache.datasets import DATASETS, open_dataset
from mettle_cache.datasets.llp import MOTION, SAMPLE_SCHEMA
from mettle_cache.datasets.llp_annotations import CATEGORIES
from mettle_cache.errors import DatasetError

WEAK = "filename\tevent_labels"
DENSE = "filename\tonset\toffset\tevent_labels"
FILES = {
    "AVVP_train.csv": [WEAK, "aaaaaaaaaa1_0_10\tSpeech,Dog", "_-aaaaaaaa2_30_40\tBanjo"],
    "AVVP_val_pd.csv": [WEAK, "bbbbbbbbbb1_101.8_111.8\tClapping,Clapping"],
    "AVVP_test_pd.csv": [WEAK, "cccccccccc1_0_10\tCar,Speech", "cccccccccc2_0_10\tCat"],
    "AVVP_eval_audio.csv": [DENSE, "bbbbbbbbbb1_101.8_111.8\t1\t4\tClapping", "cccccccccc1_0_10\t0\t10\tCar"],
    "AVVP_eval_visual.csv": [DENSE, "cccccccccc1_0_10\t2\t3\tCar", "cccccccccc1_0_10\t5\t9\tSpeech"],
}


@pytest.fixture
def annotate(tmp_path: Path) -> Callable[..., Path]:
    """Write the five files, some of them with other lines, and return the root."""

    def write(**changes: list[str]) -> Path:
        for name, lines in {**FILES, **{f"AVVP_{name}.csv": lines for name, lines in changes.items()}}.items():
            (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def _features(root: Path, **arrays: np.ndarray) -> Path:
    folder = root / "LLP_dataset" / "feats" / "r2plus1d_18"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_videos_are_samples_with_weak_labels_and_dense_events(annotate: Callable[..., Path]) -> None:
    dataset = open_dataset("llp", annotate())
    assert dataset.samples.schema == SAMPLE_SCHEMA
    assert dataset.samples.slice(1, 3).to_pylist() == [
        {
            "row": 1,
            "clip": "_-aaaaaaaa2",
            "split": "train",
            "filename": "_-aaaaaaaa2_30_40",
            "labels": ["Banjo"],
            **{f"{modality}_{part}": None for modality in ("audio", "visual") for part in ("labels", "starts", "ends")},
        },
        {
            "row": 2,
            "clip": "bbbbbbbbbb1",
            "split": "val",
            "filename": "bbbbbbbbbb1_101.8_111.8",
            "labels": ["Clapping"],
            "audio_labels": ["Clapping"],
            "audio_starts": [1],
            "audio_ends": [4],
            "visual_labels": [],
            "visual_starts": [],
            "visual_ends": [],
        },
        {
            "row": 3,
            "clip": "cccccccccc1",
            "split": "test",
            "filename": "cccccccccc1_0_10",
            "labels": ["Car", "Speech"],
            "audio_labels": ["Car"],
            "audio_starts": [0],
            "audio_ends": [10],
            "visual_labels": ["Car", "Speech"],
            "visual_starts": [2, 5],
            "visual_ends": [3, 9],
        },
    ]
    assert [clip.id for clip in dataset.clips] == dataset.samples["clip"].to_pylist()
    assert dataset.segments == 10
    assert dataset.vocabulary["categories"] == list(CATEGORIES)
    assert (DATASETS.row("llp").task, DATASETS.row("llp").layers) == ("avvp", "stages")


def test_the_version_of_the_dense_files_is_a_note_and_stays_with_the_store(annotate: Callable[..., Path]) -> None:
    root = annotate()
    dataset = open_dataset("llp", root)
    digests = [
        hashlib.sha256((root / f"AVVP_eval_{name}.csv").read_bytes()).hexdigest() for name in ("audio", "visual")
    ]
    assert dataset.vocabulary["dense_annotations"] == [
        f"AVVP_eval_audio.csv: SHA-256 {digests[0]}",
        f"AVVP_eval_visual.csv: SHA-256 {digests[1]}",
    ]
    assert dataset.notes == tuple(dataset.vocabulary["dense_annotations"])


def test_rows_that_add_nothing_are_told(annotate: Callable[..., Path]) -> None:
    rows = [DENSE, "Baby_cry\t0\t3\tDog", "aaaaaaaaaa1_0_10\t0\t3\tDog", "cccccccccc1_0_10\t9\t0\tDog"]
    dataset = open_dataset("llp", annotate(eval_audio=rows))
    assert dataset.notes[2:] == (
        "2 rows of AVVP_eval_audio.csv name no val or test video and are left out",
        "1 rows of AVVP_eval_audio.csv end where they start, or before, and add nothing",
    )
    assert dataset.samples["audio_labels"].to_pylist() == [None, None, [], [], []]


def test_media_lie_in_the_published_folders(annotate: Callable[..., Path]) -> None:
    root = annotate()
    (root / "LLP_dataset" / "wave").mkdir(parents=True)
    (root / "LLP_dataset" / "audio").mkdir()
    np.save(root / "LLP_dataset" / "wave" / "aaaaaaaaaa1.npy", np.zeros(320_000, np.float32))
    (root / "LLP_dataset" / "audio" / "_-aaaaaaaa2.wav").write_bytes(b"")
    first, second, *_ = open_dataset("llp", root).clips
    assert first.frames == root / "LLP_dataset" / "frame" / "aaaaaaaaaa1"
    assert first.audio == root / "LLP_dataset" / "wave" / "aaaaaaaaaa1.npy"
    assert second.audio == root / "LLP_dataset" / "audio" / "_-aaaaaaaa2.wav"


@pytest.mark.parametrize(("count", "width", "step"), [(10, 8, 1), (80, 6, 8), (81, 6, 8)])
def test_frame_t_is_that_of_second_t_at_one_and_at_eight_a_second(
    annotate: Callable[..., Path], count: int, width: int, step: int
) -> None:
    root = annotate()
    folder = root / "LLP_dataset" / "frame" / "aaaaaaaaaa1"
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (4, 4), (number * 3,) * 3).save(folder / f"{number:0{width}d}.jpg", quality=100)
    dataset = open_dataset("llp", root)
    seen = [round(frame.mean() / 3) for frame in dataset.load_frames(dataset.clips[0])]
    assert seen == [step * second + 1 for second in range(10)]
    assert "picture_rate" in dataset.decode_policy


@pytest.mark.parametrize(("count", "last"), [(12, 10), (11, 10), (7, 7)])
def test_numbers_1_to_10_are_read_as_the_published_loader_does(
    annotate: Callable[..., Path], count: int, last: int
) -> None:
    root = annotate()
    for clip in ("aaaaaaaaaa1", "_-aaaaaaaa2"):
        folder = root / "LLP_dataset" / "frame" / clip
        folder.mkdir(parents=True)
        for number in range(1, (count if clip == "aaaaaaaaaa1" else 10) + 1):
            Image.new("RGB", (4, 4), (number * 3,) * 3).save(folder / f"{number:08d}.jpg", quality=100)
    dataset = open_dataset("llp", root)
    seen = [round(frame.mean() / 3) for frame in dataset.load_frames(dataset.clips[0])]
    assert seen == [min(second, last) for second in range(1, 11)]
    dataset.problems()
    assert dataset.notes[-1] == (
        f"1 of 5 clips hold another number of pictures than their 10 seconds ({count} in 1), such as aaaaaaaaaa1: "
        "the first 10 are read, as published, and the last one again where there are fewer"
    )


def test_motion_features_travel_with_the_samples(annotate: Callable[..., Path]) -> None:
    root = annotate()
    stored = np.random.default_rng(0).normal(size=(10, 512)).astype(np.float32)
    _features(root, aaaaaaaaaa1=stored, cccccccccc2=np.ones((10, 512), np.float64))
    dataset = open_dataset("llp", root)
    assert dataset.samples.schema == SAMPLE_SCHEMA.append(MOTION)
    first, *between, last = dataset.samples["motion"].to_pylist()
    np.testing.assert_array_equal(np.frombuffer(first, "<f2").reshape(10, 512), stored.astype(np.float16))
    np.testing.assert_array_equal(np.frombuffer(last, "<f2"), 1)
    assert between == [None, None, None]
    assert dataset.notes[-1] == "3 of 5 videos have no R(2+1)D features in LLP_dataset/feats/r2plus1d_18"


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((10, 2048)), r"holds float64 of shape \(10, 2048\), not floats of shape \(10, 512\)"),
        (np.zeros((10, 512), np.int32), "holds int32"),
        (np.full((10, 512), 1e6), "not finite numbers in half precision"),
        (np.full((10, 512), np.nan), "not finite numbers"),
    ],
)
def test_motion_features_of_another_kind_are_refused(
    annotate: Callable[..., Path], array: np.ndarray, what: str
) -> None:
    root = annotate()
    _features(root, aaaaaaaaaa1=array)
    with pytest.raises(DatasetError, match=rf"aaaaaaaaaa1\.npy: .*{what}") as caught:
        open_dataset("llp", root)
    assert "move LLP_dataset/feats/r2plus1d_18 away" in str(caught.value.hint)


class _Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("hostile", ["pickle", "object array", "text", "empty", "folder"])
def test_hostile_motion_files_are_errors_and_run_nothing(annotate: Callable[..., Path], hostile: str) -> None:
    root = annotate()
    path, bomb = _features(root) / "aaaaaaaaaa1.npy", _Bomb(root / "mark")
    if hostile == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif hostile == "object array":
        np.save(path, np.array([bomb], dtype=object), allow_pickle=True)
    elif hostile == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"" if hostile == "empty" else b"not an array")
    with pytest.raises(DatasetError, match=r"aaaaaaaaaa1\.npy: (is not a plain \.npy array|is empty|is a folder)"):
        open_dataset("llp", root)
    assert not (root / "mark").exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_media_that_two_rows_share_are_refused(annotate: Callable[..., Path], split: str) -> None:
    name = {"train": "train", "val": "val_pd", "test": "test_pd"}[split]
    rows = [*FILES[f"AVVP_{name}.csv"], "aaaaaaaaaa1_50_60\tDog"]
    with pytest.raises(DatasetError, match=rf"'aaaaaaaaaa1' are both of AVVP_train\.csv .* and of AVVP_{name}\.csv"):
        open_dataset("llp", annotate(**{name: rows}))


def test_problems_of_all_files_come_together(annotate: Callable[..., Path]) -> None:
    root = annotate(
        train=[WEAK, "../../../../x_0_10\tDog"],
        val_pd=["filename", "bbbbbbbbbb1_0_10"],
        eval_audio=[DENSE, "cccccccccc1_0_10\t0.5\t3\tDog"],
        eval_visual=["filename\tonset\toffset", "cccccccccc1_0_10\t0\t3"],
    )
    with pytest.raises(DatasetError) as caught:
        open_dataset("llp", root)
    for what in ("AVVP_train.csv:2", "AVVP_val_pd.csv:1", "AVVP_eval_audio.csv:2", "AVVP_eval_visual.csv:1"):
        assert what in caught.value.message


def test_files_that_are_missing_are_listed_and_the_folder_below_is_a_hint(annotate: Callable[..., Path]) -> None:
    root = annotate()
    above = root.with_name(f"{root.name}-above")
    below = above / "LLP"
    shutil.copytree(root, below)
    (root / "AVVP_val_pd.csv").unlink()
    with pytest.raises(DatasetError, match=r"there is no AVVP_val_pd\.csv in .*\n.*copy them from the LLP release"):
        open_dataset("llp", root)
    with pytest.raises(DatasetError, match=r"there is no AVVP_train\.csv, .*AVVP_eval_visual\.csv in") as caught:
        open_dataset("llp", above)
    assert caught.value.hint == f"--root {below}"
