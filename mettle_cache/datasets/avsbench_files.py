"""AVSBench's tables of videos, and where it keeps the files of each.

Source: docs/protocols/avs.md, "Counts" and "Files on disk".

Frames count from 1, as their file names do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.textfile import Line, Problems, id_problem, quoted, read_lines

MAX_TABLE_BYTES = 1 << 20
"""A row stands for five clips; the published tables are a third of it."""
SPLITS = ("train", "val", "test")
S4_COLUMNS = ("name", "start", "category", "split")
MS3_COLUMNS = ("name", "split")


@dataclass(frozen=True)
class VideoRow:
    """One video. ``category`` is empty where the table has none; ``line`` counts the file's lines from 1."""

    video: str
    category: str
    split: str
    line: int


def read_videos(path: Path, columns: tuple[str, ...], problems: Problems) -> list[VideoRow]:
    """The rows of a table with ``columns``, in order; columns go by position, as their published names differ.

    A first line that says ``split`` where the split stands is the header.

    Raises
    ------
    DatasetError
        The file cannot be read.
    """
    rows: list[VideoRow] = []
    first_seen: dict[str, int] = {}
    for line, fields in _parse(path, columns, problems):
        row = VideoRow(
            video=fields["name"], category=fields.get("category", ""), split=fields["split"], line=line.number
        )
        if problem := _row_problem(row, "category" in columns):
            problems.add(line.problem(problem))
        elif row.video in first_seen:
            problems.add(line.problem(f"the same video as in line {first_seen[row.video]}"))
        else:
            first_seen[row.video] = row.line
            rows.append(row)
    if not rows and not problems.count:
        problems.add(f"{path}: holds no rows")
    return rows


def _parse(path: Path, columns: tuple[str, ...], problems: Problems) -> Iterator[tuple[Line, dict[str, str]]]:
    place = columns.index("split")
    for index, line in enumerate(read_lines(path, problems, limit=MAX_TABLE_BYTES)):
        try:
            fields = [field.strip() for field in next(csv.reader([line.text], strict=True))]
        except csv.Error as error:
            problems.add(line.problem(f"not comma-separated values ({error}): {quoted(line.text)}"))
            continue
        if index == 0 and fields[place : place + 1] == ["split"]:
            continue
        if len(fields) != len(columns):
            problems.add(line.problem(f"{len(fields)} columns, not {len(columns)} ({', '.join(columns)})"))
            continue
        yield line, dict(zip(columns, fields, strict=True))


def _row_problem(row: VideoRow, with_category: bool) -> str | None:
    """Why the row cannot be used; its names become parts of paths."""
    if problem := id_problem(row.video):
        return problem
    if row.split not in SPLITS:
        return f"the split {quoted(row.split)} is none of {', '.join(SPLITS)}"
    if with_category and (problem := id_problem(row.category)):
        return problem.replace("the id", "the category", 1)
    return None


@dataclass(frozen=True)
class Subset:
    """One of the two subsets. Patterns are relative to ``folder`` and are filled from a row; ``{k}`` is a frame."""

    table: str
    columns: tuple[str, ...]
    folder: str
    frames: str
    masks: str
    recordings: str
    waves: str

    def frame(self, root: Path, row: VideoRow, k: int) -> Path:
        return self._path(root, self.frames, row, k)

    def mask(self, root: Path, row: VideoRow, k: int) -> Path:
        return self._path(root, self.masks, row, k)

    def recording(self, root: Path, row: VideoRow) -> Path:
        """The 16 kHz file of one video."""
        return self._path(root, self.recordings, row)

    def wave_file(self, root: Path, row: VideoRow) -> Path:
        """The file that holds the 32 kHz sound of this video and others."""
        return self._path(root, self.waves, row)

    def _path(self, root: Path, pattern: str, row: VideoRow, k: int = 0) -> Path:
        return root / self.folder / pattern.format(split=row.split, category=row.category, video=row.video, k=k)


S4 = Subset(
    table="Single-source/s4_meta_data.csv",
    columns=S4_COLUMNS,
    folder="Single-source/s4_data",
    frames="visual_frames/{split}/{category}/{video}/{video}_{k}.png",
    masks="gt_masks/{split}/{category}/{video}/{video}_{k}.png",
    recordings="audio_wav/{split}/{category}/{video}.wav",
    waves="wave/{split}/{category}/AVS.npy",
)
MS3 = Subset(
    table="Multi-sources/ms3_meta_data.csv",
    columns=MS3_COLUMNS,
    folder="Multi-sources/ms3_data",
    frames="visual_frames/{video}/{video}.mp4_{k}.png",
    masks="gt_masks/{split}/{video}/{video}_{k}.png",
    recordings="audio_wav/{split}/{video}.wav",
    waves="wave/{split}/AVS.npy",
)
