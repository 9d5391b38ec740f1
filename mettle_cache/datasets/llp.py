"""LLP: several events a video, seen, heard or both; weak labels to learn from, dense ones to score.

Source: docs/protocols/avvp.md, "Annotation files".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from mettle_cache.datasets.llp_annotations import (
    CATEGORIES,
    MOTION_FOLDER,
    SECONDS,
    DenseEvents,
    Video,
    read_events,
    read_motion,
    read_videos,
)
from mettle_cache.datasets.media.places import Layout, Place
from mettle_cache.datasets.media_dataset import MediaDataset, media_dataset
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, DatasetInfo, PictureRule
from mettle_cache.datasets.textfile import Problems, quoted, read_bytes
from mettle_cache.errors import DatasetError

SPLIT_FILES = {"train": "AVVP_train.csv", "val": "AVVP_val_pd.csv", "test": "AVVP_test_pd.csv"}
EVENT_FILES = {"audio": "AVVP_eval_audio.csv", "visual": "AVVP_eval_visual.csv"}
DENSE_SPLITS = ("val", "test")

SAMPLE_SCHEMA = pa.schema(
    [
        *SAMPLE_COLUMNS,
        ("filename", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("audio_labels", pa.list_(pa.string())),
        ("audio_starts", pa.list_(pa.int64())),
        ("audio_ends", pa.list_(pa.int64())),
        ("visual_labels", pa.list_(pa.string())),
        ("visual_starts", pa.list_(pa.int64())),
        ("visual_ends", pa.list_(pa.int64())),
    ],
)
"""``row`` counts through the three split files. ``labels`` are weak; the events of each modality are whole seconds
``[start, end)``, and null in train, which has none."""

MOTION = pa.field("motion", pa.binary())
"""A further column where the R(2+1)D features are there: float16 ``[10, 512]``, null for a video without a file."""

KNOWN_AUDIO_EVENTS = {
    "d5435664668bec6e7eafb39059d2f424ed2682f6b55395262fc3cb691b7d0778": "fixed, of AVVP-ECCV20",
    "249122f65501d8d611c0027a48643798fe622bedee60f7e6224b5a8e3c02f886": "as shipped by later projects, 3 rows broken",
}
"""SHA-256 of the two published versions of AVVP_eval_audio.csv."""

LAYOUT = Layout(
    frames=(Place("LLP_dataset/frame"),),
    audio=(Place("LLP_dataset/wave", ".npy"), Place("LLP_dataset/wave", ".wav"), Place("LLP_dataset/audio", ".wav")),
)
PICTURES = PictureRule(rate=8)
"""The scripts of AVVP-ECCV20 take eight a second; DG-SCT opens numbers 1 to 10, one a second."""


def open_llp(root: Path) -> MediaDataset:
    """Read the annotations under ``root`` and find the media that they name.

    Videos are samples and clips alike. Which version of AVVP_eval_audio.csv was read is a note, and stands in the
    vocabulary, so that it reaches every result.

    Raises
    ------
    DatasetError
        Annotation files that are missing, or every problem found in them, in one message.
    """
    _require_files(root)
    problems = Problems()
    splits = {split: read_videos(root / name, problems) for split, name in SPLIT_FILES.items()}
    _refuse_repeats(root, splits, problems)
    dense = {video.filename: video for split in DENSE_SPLITS for video in splits[split]}
    events = {modality: read_events(root / name, dense, problems) for modality, name in EVENT_FILES.items()}
    problems.raise_if_any(root)
    motion = read_motion(root, [video.clip for videos in splits.values() for video in videos], problems)
    problems.raise_if_any(
        root, hint=f"download these files again, or move {MOTION_FOLDER} away: only the option mgn needs it"
    )
    samples = _samples(splits, events)
    if motion is not None:
        samples = samples.append_column(MOTION, pa.array(motion, MOTION.type))
    versions = [f"{name}: {_version(root / name)}" for name in EVENT_FILES.values()]
    return media_dataset(
        name=INFO.name,
        root=root,
        segments=SECONDS,
        samples=samples,
        vocabulary={"categories": list(CATEGORIES), "dense_annotations": versions},
        layout=LAYOUT,
        notes=(*versions, *_notes(events), *_motion_notes(motion)),
        picture_rule=PICTURES,
    )


INFO = DatasetInfo(
    name="llp",
    title="Audio-visual video parsing, 25 categories (LLP)",
    segments=SECONDS,
    default_root=Path("data/AVVP"),
    layouts=(
        "AVVP_*.csv, LLP_dataset/frame/<id>/%08d.jpg and LLP_dataset/wave/<id>.npy",
        "the same with frames at 8 a second (%06d.jpg) and LLP_dataset/audio/<id>.wav",
    ),
    open=open_llp,
    picture_rule=PICTURES,
)


def _require_files(root: Path) -> None:
    names = [*SPLIT_FILES.values(), *EVENT_FILES.values()]
    missing = [name for name in names if not (root / name).exists()]
    if not missing:
        return
    inside = sorted(root.glob(f"*/{SPLIT_FILES['train']}"))
    hint = f"--root {inside[0].parent}" if inside else f"copy them from the LLP release to {root}, or give --root"
    raise DatasetError(f"there is no {', '.join(missing)} in {root}", hint=hint)


def _refuse_repeats(root: Path, splits: Mapping[str, list[Video]], problems: Problems) -> None:
    """A video that is listed twice would be two samples of one clip, or of two splits."""
    seen: dict[str, str] = {}
    for split, videos in splits.items():
        for video in videos:
            where = f"{SPLIT_FILES[split]} ({quoted(video.filename)})"
            if first := seen.get(video.clip):
                problems.add(f"{root}: the media {quoted(video.clip)} are both of {first} and of {where}")
            seen.setdefault(video.clip, where)


def _samples(splits: Mapping[str, list[Video]], events: Mapping[str, DenseEvents]) -> pa.Table:
    videos = [(split, video) for split, members in splits.items() for video in members]
    columns: dict[str, list[object]] = {
        "row": list(range(len(videos))),
        "clip": [video.clip for _, video in videos],
        "split": [split for split, _ in videos],
        "filename": [video.filename for _, video in videos],
        "labels": [list(video.labels) for _, video in videos],
    }
    for modality, dense in events.items():
        per_video = [
            dense.of_video.get(video.filename, []) if split in DENSE_SPLITS else None for split, video in videos
        ]
        for column, attribute in (("labels", "category"), ("starts", "start"), ("ends", "end")):
            columns[f"{modality}_{column}"] = [
                None if listed is None else [getattr(event, attribute) for event in listed] for listed in per_video
            ]
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _version(path: Path) -> str:
    """Which published version a dense file is, if any, and its digest."""
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    known = KNOWN_AUDIO_EVENTS.get(digest)
    return f"{known}, SHA-256 {digest}" if known else f"SHA-256 {digest}"


def _notes(events: Mapping[str, DenseEvents]) -> Iterator[str]:
    for modality, dense in events.items():
        if dense.unknown:
            yield f"{dense.unknown} rows of {EVENT_FILES[modality]} name no val or test video and are left out"
        if dense.empty:
            yield f"{dense.empty} rows of {EVENT_FILES[modality]} end where they start, or before, and add nothing"


def _motion_notes(motion: list[bytes | None] | None) -> Iterator[str]:
    if motion is not None and None in motion:
        yield f"{motion.count(None)} of {len(motion)} videos have no R(2+1)D features in {MOTION_FOLDER}"
