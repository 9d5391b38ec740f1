"""LLP's files of facts: weak labels of every video, dense events of val and test videos, published motion features.

The labels are TAB-separated text (docs/protocols/avvp.md, "Annotation files"); the R(2+1)D features are arrays that
travel with the samples, 10 KB a video (docs/protocols/avvp.md, "Media on disk").
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.npy import map_npy
from mettle_cache.datasets.textfile import Line, Problems, quoted, read_lines

SECONDS = 10
ID_LENGTH = 11

CATEGORIES = (
    "Speech",
    "Car",
    "Cheering",
    "Dog",
    "Cat",
    "Frying_(food)",
    "Basketball_bounce",
    "Fire_alarm",
    "Chainsaw",
    "Cello",
    "Banjo",
    "Singing",
    "Chicken_rooster",
    "Violin_fiddle",
    "Vacuum_cleaner",
    "Baby_laughter",
    "Accordion",
    "Lawn_mower",
    "Motorcycle",
    "Helicopter",
    "Acoustic_guitar",
    "Telephone_bell_ringing",
    "Baby_cry_infant_cry",
    "Blender",
    "Clapping",
)
"""In canonical order. There is no background: a segment in which nothing happens has no category."""

MOTION_FOLDER = "LLP_dataset/feats/r2plus1d_18"
MOTION_SHAPE = (10, 512)
"""Seconds and channels."""

_NAME = re.compile(r"[A-Za-z0-9_-]{11}_([0-9]{1,6}(?:\.[0-9]{1,6})?)_([0-9]{1,6}(?:\.[0-9]{1,6})?)")


@dataclass(frozen=True)
class Video:
    """One line of a split file: ``filename`` is ``<id>_<start>_<end>``; ``labels`` are what is seen, heard or both."""

    filename: str
    labels: tuple[str, ...]

    @property
    def clip(self) -> str:
        """The name of its media: ids contain ``_``, so only their length tells where they end."""
        return self.filename[:ID_LENGTH]


@dataclass(frozen=True)
class Event:
    """A category in the whole seconds ``[start, end)``."""

    category: str
    start: int
    end: int


@dataclass
class DenseEvents:
    """The events of one modality by file name; ``unknown`` rows name no annotated video, ``empty`` ones no second."""

    of_video: dict[str, list[Event]] = field(default_factory=dict)
    unknown: int = 0
    empty: int = 0


def read_videos(path: Path, problems: Problems) -> list[Video]:
    """The rows of a split file, in order; a label that is listed twice counts once."""
    videos: list[Video] = []
    for line, (filename, text) in read_columns(path, ("filename", "event_labels"), problems):
        labels = tuple(dict.fromkeys(label.strip() for label in text.split(",")))
        unknown = [label for label in labels if label not in CATEGORIES]
        if problem := _name_problem(filename):
            problems.add(line.problem(problem))
        if unknown:
            problems.add(line.problem(f"unknown label {quoted(unknown[0])}"))
        videos.append(Video(filename, labels))
    if not videos and not problems.count:
        problems.add(f"{path}: holds no rows")
    return videos


def read_events(path: Path, known: Mapping[str, object], problems: Problems) -> DenseEvents:
    """The dense events of the videos in ``known``, by file name.

    Rows of other names are counted and left out, as are those that end where they start or before: the published
    files have both. Two rows may say the same.
    """
    dense = DenseEvents()
    for line, (filename, onset, offset, category) in read_columns(
        path, ("filename", "onset", "offset", "event_labels"), problems
    ):
        start, end = _seconds(onset), _seconds(offset)
        if start is None or end is None:
            what = f"onset {quoted(onset)} and offset {quoted(offset)} are not whole seconds from 0 to {SECONDS}"
            problems.add(line.problem(what))
        elif category not in CATEGORIES:
            problems.add(line.problem(f"unknown label {quoted(category)}"))
        elif filename not in known:
            dense.unknown += 1
        elif start >= end:
            dense.empty += 1
        else:
            dense.of_video.setdefault(filename, []).append(Event(category, start, end))
    return dense


def read_columns(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[tuple[Line, list[str]]]:
    """The fields of ``columns``, wherever the header has them; rows of another length are problems."""
    header: list[str] | None = None
    for line in read_lines(path, problems):
        fields = [text.strip() for text in line.text.split("\t")]
        if header is None:
            header = fields
            if missing := [name for name in columns if header.count(name) != 1]:
                shown = ", ".join(quoted(name) for name in header[:8])
                problems.add(line.problem(f"no TAB-separated column {', '.join(missing)}; the columns are {shown}"))
                return
        elif len(fields) != len(header):
            problems.add(line.problem(f"{len(fields)} fields separated by TAB, not {len(header)}"))
        else:
            yield line, [fields[header.index(name)] for name in columns]


def _name_problem(filename: str) -> str | None:
    match = _NAME.fullmatch(filename)
    if match is None:
        return f"the file name {quoted(filename)} is not <id of {ID_LENGTH} letters, digits, - or _>_<start>_<end>"
    length = float(match[2]) - float(match[1])
    if abs(length - SECONDS) > 1e-6:
        return f"the video {quoted(filename)} is {length:g} s long, not {SECONDS}"
    return None


def _seconds(text: str) -> int | None:
    # int() alone would take signs, underscores, blanks and the digits of every script
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        return None
    return int(text) if int(text) <= SECONDS else None


def read_motion(root: Path, ids: Sequence[str], problems: Problems) -> list[bytes | None] | None:
    """The features of each id, ``MOTION_SHAPE`` little-endian float16; None where there is no file, or no folder.

    A file that is there but holds something else is added to ``problems``.
    """
    folder = root / MOTION_FOLDER
    if not folder.is_dir():
        return None
    files = [folder / f"{clip}.npy" for clip in ids]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as executor:
        read = list(executor.map(_read_motion_file, files))
    for path, features in zip(files, read, strict=True):
        if isinstance(features, str):
            problems.add(f"{path}: {features}")
    return [None if isinstance(features, str) else features for features in read]


def _read_motion_file(path: Path) -> bytes | str | None:
    """The packed features, what is wrong with the file, or None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        stored = map_npy(path)
    except MediaFileError as error:
        return error.what
    if stored.dtype.kind != "f" or stored.shape != MOTION_SHAPE:
        return f"holds {stored.dtype} of shape {stored.shape}, not floats of shape {MOTION_SHAPE}"
    with np.errstate(over="ignore"):
        packed = np.asarray(stored).astype("<f2")
    return (
        packed.tobytes() if np.isfinite(packed).all() else "holds values that are not finite numbers in half precision"
    )
