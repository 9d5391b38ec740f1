"""AVE: one event a video, seen and heard within one interval of whole seconds.

Source: docs/protocols/avel.md, "Annotation files".
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mettle_cache.datasets.ave_annotations import AnnotatedRow, read_categories, read_rows, read_splits
from mettle_cache.datasets.media.places import Layout, Place
from mettle_cache.datasets.media_dataset import MediaDataset, media_dataset
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, DatasetInfo
from mettle_cache.datasets.textfile import Problems
from mettle_cache.errors import DatasetError
from mettle_cache.preprocessing import Preprocessing

SEGMENTS = 10

SAMPLE_SCHEMA = pa.schema(
    [*SAMPLE_COLUMNS, ("category", pa.string()), ("start", pa.int64()), ("end", pa.int64())],
)
"""The event is the whole seconds ``[start, end)``."""

LAYOUT = Layout(
    frames=(Place("frames"), Place("video_frames"), Place("AVE", ".mp4")),
    audio=(Place("wave", ".npy"), Place("wave", ".wav"), Place("raw_audio", ".wav"), Place("AVE", ".mp4")),
)
"""DG-SCT's and AVMoE's folders, then LAVISH's, then the videos of the original release."""


def open_ave(root: Path) -> MediaDataset:
    """Read the annotations under ``root`` and find the media that they name.

    Rows are samples, ids are clips. The split files or order files decide which rows are samples; labels are whole
    seconds ``[start, end)``, from which ``labels.h5`` can be rebuilt exactly.

    Raises
    ------
    DatasetError
        Annotation files that are missing, or every problem found in them, in one message.
    """
    annotations = root / "Annotations.txt"
    if not annotations.exists():
        raise DatasetError(f"there is no Annotations.txt in {root}", hint=_root_hint(root))
    problems = Problems()
    categories = read_categories(root, problems)
    rows = read_rows(annotations, categories, problems)
    problems.raise_if_any(root, hint=None if (root / "categories.txt").exists() else _CATEGORIES_HINT)
    splits = read_splits(root, rows, problems)
    problems.raise_if_any(root)
    return media_dataset(
        name=INFO.name,
        root=root,
        segments=SEGMENTS,
        samples=_samples(rows, splits),
        vocabulary={"categories": list(categories)},
        layout=LAYOUT,
        notes=_notes(rows, splits),
    )


INFO = DatasetInfo(
    name="ave",
    title="Audio-visual event localization, 28 categories (AVE)",
    segments=SEGMENTS,
    default_root=Path("data/AVE"),
    layouts=(
        "frames/<id>/%08d.jpg and wave/<id>.npy or .wav",
        "video_frames/<id>/%04d.jpg and raw_audio/<id>.wav",
        "AVE/<id>.mp4",
    ),
    open=open_ave,
    preprocessing=Preprocessing(file_sound=True),
)


_CATEGORIES_HINT = "if these are your own categories, list them in categories.txt beside it, one a line"


def _samples(rows: list[AnnotatedRow], splits: list[str | None]) -> pa.Table:
    members = [(index, row, split) for index, (row, split) in enumerate(zip(rows, splits, strict=True)) if split]
    columns = {
        "row": [index for index, _, _ in members],
        "clip": [row.clip for _, row, _ in members],
        "split": [split for _, _, split in members],
        "category": [row.category for _, row, _ in members],
        "start": [row.start for _, row, _ in members],
        "end": [row.end for _, row, _ in members],
    }
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _notes(rows: list[AnnotatedRow], splits: list[str | None]) -> tuple[str, ...]:
    unused = sum(split is None for split in splits)
    if not unused:
        return ()
    return (f"{unused} of {len(rows)} rows of Annotations.txt are in no split and are left out",)


def _root_hint(root: Path) -> str:
    inside = sorted(root.glob("*/Annotations.txt"))
    if inside:
        return f"--root {inside[0].parent}"
    return "give the folder that holds Annotations.txt and the split files with --root"
