"""MUSIC-AVQA: questions about videos of a minute, of which ten seconds are looked at (docs/protocols/avqa.md).

The splits divide questions, not videos: val and test share a third of theirs, and a store by video serves all three.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from mettle_cache.datasets.avqa_questions import Question, read_questions
from mettle_cache.datasets.media.places import Layout, Place
from mettle_cache.datasets.media_dataset import MediaDataset, media_dataset
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, DatasetInfo, PictureRule
from mettle_cache.datasets.textfile import Problems, quoted
from mettle_cache.errors import DatasetError
from mettle_cache.preprocessing import FbankPreprocessing, Preprocessing

SEGMENTS = 10
SPLITS = ("train", "val", "test")
RELEASES = ("json_update", "json")
"""The corrected release, preferred, and the first one."""

PAD = "<pad>"
WORDS = 93
ANSWERS = 42
"""What the published train questions hold, padding included; a model file fits no other numbers."""

SAMPLE_SCHEMA = pa.schema(
    [
        *SAMPLE_COLUMNS,
        ("question_id", pa.int64()),
        ("modality", pa.string()),
        ("kind", pa.string()),
        ("template", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
    ],
)
"""``row`` counts within the split's file, because question ids repeat; ``question`` is its words with one space
between them."""

LAYOUT = Layout(
    frames=(Place("frames"), Place("video_frames")),
    audio=(Place("audio_wave", ".npy"), Place("raw_audio", ".wav")),
)
"""DG-SCT's and AVMoE's folders, then LAVISH's. ``audio_wave`` holds the ten seconds already; of ``raw_audio`` the whole
minute is read, and each backbone takes its own windows."""


def open_avqa(root: Path) -> MediaDataset:
    """Read the questions under ``root`` and find the videos that they are about.

    ``root`` is the folder that holds ``json_update`` or ``json``, or one of those two folders itself, where the other
    release is wanted. Questions are samples, videos are clips. Words and answers are numbered by their first
    appearance in the train questions; a val or test question with another word cannot be asked and is left out, one
    with another answer stays and counts as wrong.

    Raises
    ------
    DatasetError
        Question files that are missing, or every problem found in them, in one message.
    """
    release, folder, media = _find_release(root)
    problems = Problems()
    read = {split: read_questions(folder / f"avqa-{split}.json", problems) for split in SPLITS}
    problems.raise_if_any(folder)
    vocabulary = build_vocabulary(read["train"])
    questions = {split: _usable(read[split], vocabulary["words"]) for split in SPLITS}
    return media_dataset(
        name=INFO.name,
        root=media,
        segments=SEGMENTS,
        samples=_samples(questions),
        vocabulary={**vocabulary, "release": [release]},
        layout=LAYOUT,
        notes=tuple(_notes(release, read, questions, vocabulary)),
        picture_rule=INFO.picture_rule,
    )


INFO = DatasetInfo(
    name="music-avqa",
    title="Audio-visual question answering, nine types, 42 answers (MUSIC-AVQA)",
    segments=SEGMENTS,
    default_root=Path("data/AVQA"),
    layouts=(
        "json_update/avqa-<split>.json, frames/<id>/%08d.jpg and audio_wave/<id>.npy",
        "json/avqa-<split>.json where there is no json_update, or as --root data/AVQA/json",
        "video_frames/<id>/%04d.jpg and raw_audio/<id>.wav",
    ),
    open=open_avqa,
    picture_rule=PictureRule(longer=True),
    preprocessing=Preprocessing(
        final_norm=True,
        spread_seconds=True,
        file_sound=True,
        fbank=FbankPreprocessing(
            window_seconds=1.95, frame_shift_ms=10.0, mean=-5.385333061218262, std=3.5928637981414795
        ),
    ),
)


def build_vocabulary(train: Iterable[Question]) -> dict[str, list[str]]:
    """``words`` (padding first) and ``answers`` by first appearance, the order that published weights are in."""
    usable = [question for question in train if not question.deleted]
    words = dict.fromkeys(word for question in usable for word in question.words)
    answers = dict.fromkeys(question.answer for question in usable)
    return {"words": [PAD, *words], "answers": list(answers)}


def _find_release(root: Path) -> tuple[str, Path, Path]:
    """Name and folder of the questions, and the folder of the media."""
    if (root / "avqa-train.json").exists():
        whole = Path(os.path.abspath(root))
        return (whole.name, root, whole.parent) if whole.name in RELEASES else ("own", root, root)
    release = next((name for name in RELEASES if (root / name / "avqa-train.json").exists()), None)
    if release is None:
        raise DatasetError(
            f"there is no {RELEASES[0]}/avqa-train.json and no {RELEASES[1]}/avqa-train.json in {root}",
            hint="give the folder that holds json_update or json, frames and audio_wave with --root",
        )
    return release, root / release, root


def _usable(questions: Sequence[Question], words: Sequence[str]) -> list[tuple[int, Question]]:
    """Questions that can be asked, with their rows."""
    known = set(words)
    return [(row, q) for row, q in enumerate(questions) if not q.deleted and known.issuperset(q.words)]


def _samples(questions: Mapping[str, Sequence[tuple[int, Question]]]) -> pa.Table:
    members = [(split, row, question) for split in SPLITS for row, question in questions[split]]
    columns = {
        "row": [row for _, row, _ in members],
        "clip": [question.clip for _, _, question in members],
        "split": [split for split, _, _ in members],
        "question_id": [question.number for _, _, question in members],
        "modality": [question.modality for _, _, question in members],
        "kind": [question.kind for _, _, question in members],
        "template": [question.template for _, _, question in members],
        "question": [" ".join(question.words) for _, _, question in members],
        "answer": [question.answer for _, _, question in members],
    }
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _notes(
    release: str,
    read: Mapping[str, Sequence[Question]],
    questions: Mapping[str, Sequence[tuple[int, Question]]],
    vocabulary: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    counts = ", ".join(f"{split} {len(questions[split])}" for split in SPLITS)
    yield f"questions of {release}: {counts}; numbers on json and on json_update are not comparable"
    words, answers = len(vocabulary["words"]), len(vocabulary["answers"])
    if (words, answers) != (WORDS, ANSWERS):
        yield f"the train questions have {words} words and {answers} answers, the published ones {WORDS} and {ANSWERS}"
    deleted = sum(question.deleted for every in read.values() for question in every)
    if deleted:
        yield f"questions marked as deleted and left out: {deleted}"
    known, answered = set(vocabulary["words"]), set(vocabulary["answers"])
    for split in SPLITS[1:]:
        usable = [question for question in read[split] if not question.deleted]
        unknown = [word for question in usable for word in question.words if word not in known]
        if unknown:
            left, word = len(usable) - len(questions[split]), quoted(unknown[0])
            yield f"{split} questions left out for words that no train question has: {left}, such as {word}"
        unseen = sum(question.answer not in answered for _, question in questions[split])
        if unseen:
            yield f"{split} questions whose answer no train question has, which count as wrong: {unseen}"
