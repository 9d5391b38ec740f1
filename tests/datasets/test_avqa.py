from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mettle_cache.datasets import DATASETS, dataset_info, open_dataset
from mettle_cache.datasets.avqa import ANSWERS, PAD, WORDS, build_vocabulary
from mettle_cache.datasets.avqa_questions import read_questions
from mettle_cache.datasets.textfile import Problems
from mettle_cache.errors import DatasetError
from tests.datasets.avqa_files import entries, entry, replaced, write_questions

PUBLISHED = Path(os.environ.get("METTLE_ANNOTATIONS", Path(__file__).parents[3] / "shared" / "annotations")) / "avqa"
published = pytest.mark.skipif(
    not (PUBLISHED / "avqa-test.json").exists(),
    reason="the published annotations are not here; METTLE_ANNOTATIONS names their folder",
)


def test_questions_are_samples_and_videos_are_clips(tmp_path: Path) -> None:
    found = open_dataset("music-avqa", write_questions(tmp_path))
    samples = found.samples
    assert [clip.id for clip in found.clips] == ["00000028", "sa00000001", "00000031", "00000044", "00000045"]
    assert samples["split"].to_pylist() == ["train"] * 4 + ["val"] + ["test"] * 2
    assert samples["row"].to_pylist() == [0, 1, 2, 3, 0, 0, 1]
    assert samples["question"][1].as_py() == "Is the erhu louder than the tuba"
    assert samples["template"][3].as_py() == "Where is the performance?"
    assert samples["modality"].to_pylist()[:2] == ["Audio-Visual", "Audio"]
    assert samples["kind"].to_pylist()[:2] == ["Existential", "Comparative"]
    assert samples["answer"].to_pylist()[:4] == ["yes", "no", "one", "indoor"]


def test_words_and_answers_are_numbered_by_first_appearance_in_train(tmp_path: Path) -> None:
    vocabulary = open_dataset("music-avqa", write_questions(tmp_path)).vocabulary
    assert vocabulary["words"][:9] == [PAD, "Is", "the", "tuba", "in", "video", "always", "playing", "erhu"]
    assert vocabulary["answers"] == ["yes", "no", "one", "indoor"]
    assert vocabulary["release"] == ["json_update"]


def test_the_corrected_release_is_preferred_and_the_other_is_a_root_of_its_own(tmp_path: Path, monkeypatch) -> None:
    write_questions(tmp_path, "json", train=entries("train")[:3])
    write_questions(tmp_path, "json_update")
    (tmp_path / "frames" / "00000028").mkdir(parents=True)
    assert open_dataset("music-avqa", tmp_path).samples.num_rows == 7
    first = open_dataset("music-avqa", tmp_path / "json")
    assert first.vocabulary["release"] == ["json"]
    assert first.clips[0].frames == tmp_path / "frames" / "00000028"
    assert any("of json: train 3" in note for note in first.notes)
    monkeypatch.chdir(tmp_path / "json")
    assert open_dataset("music-avqa", ".").root == tmp_path


def test_own_files_may_lie_beside_the_media(tmp_path: Path) -> None:
    write_questions(tmp_path, ".")
    own = open_dataset("music-avqa", tmp_path)
    assert (own.vocabulary["release"], own.root) == (["own"], tmp_path)


def test_only_the_first_release_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    assert open_dataset("music-avqa", write_questions(tmp_path, "json")).vocabulary["release"] == ["json"]


def test_other_counts_than_the_published_are_a_note(tmp_path: Path) -> None:
    notes = open_dataset("music-avqa", write_questions(tmp_path)).notes
    assert "questions of json_update: train 4, val 1, test 2; numbers on json and on json_update" in notes[0]
    assert notes[1].startswith("the train questions have 21 words and 4 answers, the published ones 93 and 42")
    assert len(notes) == 2


def test_questions_that_cannot_be_asked_or_answered_are_said(tmp_path: Path) -> None:
    test = [
        *entries("test"),
        entry("00000050", ("Visual", "Location"), "Where is the concert?", [], "indoor"),
        entry("00000051", ("Visual", "Location"), "Where is the performance?", [], "outdoor"),
    ]
    found = open_dataset("music-avqa", write_questions(tmp_path, test=test))
    assert found.samples.filter([s == "test" for s in found.samples["split"].to_pylist()])["row"].to_pylist() == [
        0,
        1,
        3,
    ]
    assert "00000050" not in [clip.id for clip in found.clips]
    assert "test questions left out for words that no train question has: 1, such as 'concert'" in found.notes
    assert "test questions whose answer no train question has, which count as wrong: 1" in found.notes


def test_deleted_questions_are_left_out_and_teach_no_word(tmp_path: Path) -> None:
    deleted = {**entry("00000077", ("Visual", "Location"), "Where is Waldo?", [], "here"), "question_deleted": 1}
    found = open_dataset("music-avqa", write_questions(tmp_path, train=[*entries("train"), deleted]))
    assert found.samples.num_rows == 7
    assert "Waldo" not in found.vocabulary["words"]
    assert "questions marked as deleted and left out: 1" in found.notes


def test_all_problems_of_all_files_are_told_together(tmp_path: Path) -> None:
    root = write_questions(tmp_path, train=[replaced(video_id="../x")], test=[replaced(templ_values="[]")])
    with pytest.raises(DatasetError, match="have 2 problems") as caught:
        open_dataset("music-avqa", root)
    assert f"{root}/json_update/avqa-train.json: entry 0: the id '../x' is not" in str(caught.value)
    assert f"{root}/json_update/avqa-test.json: entry 0: question 'Is the <Object>" in str(caught.value)


def test_missing_question_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"there is no json_update/avqa-train\.json and no json/avqa-train"
    ) as caught:
        open_dataset("music-avqa", tmp_path)
    assert "--root" in (caught.value.hint or "")
    root = write_questions(tmp_path)
    (root / "json_update" / "avqa-val.json").unlink()
    with pytest.raises(DatasetError, match=r"avqa-val\.json is not a file"):
        open_dataset("music-avqa", root)


def write_media(root: Path, clip: str, *, frames: str, count: int, digits: int) -> None:
    folder = root / frames / clip
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number:0{digits}d}.png")


@pytest.mark.parametrize(("count", "chosen"), [
    (60, [1, 7, 14, 20, 27, 33, 40, 46, 53, 60]), (59, [1, 7, 13, 20, 26, 33, 39, 46, 52, 59]),
])  # fmt: skip
@pytest.mark.parametrize(("frames", "digits"), [("frames", 8), ("frames", 6), ("video_frames", 4)])
def test_ten_pictures_are_spread_over_the_video(tmp_path: Path, count, chosen, frames, digits) -> None:
    root = write_questions(tmp_path)
    write_media(root, "00000028", frames=frames, count=count, digits=digits)
    found = open_dataset("music-avqa", root)
    assert [int(picture[0, 0, 0]) for picture in found.load_frames(found.clips[0])] == chosen


def test_audio_wave_is_ten_seconds_at_32_khz(tmp_path: Path) -> None:
    root = write_questions(tmp_path)
    (root / "audio_wave").mkdir()
    samples = np.linspace(-1, 1, 320_000, dtype=np.float32)
    np.save(root / "audio_wave" / "00000028.npy", samples)
    found = open_dataset("music-avqa", root)
    assert np.array_equal(found.load_waveform(found.clips[0], 32_000), samples)
    missing = {problem.path.name for problem in found.problems()}
    assert "00000028.npy" not in missing
    assert "00000045.npy" in missing


def test_what_is_stored_by_default_is_what_the_spec_recommends() -> None:
    info = dataset_info("music-avqa")
    row = DATASETS.row("music-avqa")
    assert (row.task, row.layers, info.segments, info.default_root) == ("avqa", "last:1", 10, Path("data/AVQA"))
    assert info.preprocessing.final_norm
    assert info.preprocessing.seconds_repeated == 10
    assert info.preprocessing.fbank is not None
    assert info.preprocessing.fbank.window_seconds == 1.95


@published
def test_published_questions_parse_and_count_as_specified() -> None:
    problems = Problems()
    read = {split: read_questions(PUBLISHED / f"avqa-{split}.json", problems) for split in ("val", "test")}
    assert problems.count == 0
    assert {split: len(questions) for split, questions in read.items()} == {"val": 4568, "test": 9129}
    counts = Counter((question.modality, question.kind) for question in read["test"])
    assert counts == {
        ("Audio", "Counting"): 1017,
        ("Audio", "Comparative"): 594,
        ("Visual", "Counting"): 1197,
        ("Visual", "Location"): 1225,
        ("Audio-Visual", "Existential"): 988,
        ("Audio-Visual", "Counting"): 1265,
        ("Audio-Visual", "Location"): 920,
        ("Audio-Visual", "Comparative"): 1101,
        ("Audio-Visual", "Temporal"): 822,
    }
    lengths = {len(question.words) for questions in read.values() for question in questions}
    assert (min(lengths), max(lengths)) == (4, 14)
    clips = {split: {question.clip for question in questions} for split, questions in read.items()}
    assert (len(clips["val"]), len(clips["test"]), len(clips["val"] & clips["test"])) == (3815, 6399, 2296)


@published
def test_published_test_questions_have_every_word_and_41_answers() -> None:
    vocabulary = build_vocabulary(read_questions(PUBLISHED / "avqa-test.json", Problems()))
    assert len(vocabulary["words"]) == WORDS == 93
    assert len(vocabulary["answers"]) == ANSWERS - 1 == 41
    assert "ten" not in vocabulary["answers"]
