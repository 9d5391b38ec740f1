"""Which clips are not independent of each other, from a file: ``clip,picture,recording`` and a line a clip."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from mettle_cache.errors import DatasetError

CLIP = "clip"
Groups = Mapping[str, Mapping[str, str]]
"""The group of each clip, by the name of a column and the clip's id."""


def read_groups(path: Path) -> Groups:
    """Read a CSV file whose column ``clip`` holds ids, and whose others name what the clip shares with some more.

    Clips with the same word in a column are one group of it. A sample's clip is what its column ``clip`` says: the
    video, where every frame is a clip of its own.

    Raises
    ------
    DatasetError
        The file cannot be read, has no column ``clip`` or no other one, a line of another length or with
        an empty cell, or a clip twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: the groups cannot be read ({reason})") from error
    header, *rows = lines or [[]]
    shared = [name for name in header if name != CLIP]
    if CLIP not in header or not shared or len(set(header)) < len(header):
        raise DatasetError(
            f"{path}: the columns are {', '.join(header) or 'none'}",
            hint="the first line names them: clip, and one for each thing that clips share, as clip,picture,recording",
        )
    groups: dict[str, dict[str, str]] = {name: {} for name in shared}
    place = header.index(CLIP)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DatasetError(f"{path}, line {number}: {len(row)} values for {len(header)} columns")
        if not all(row):
            raise DatasetError(
                f"{path}, line {number}: an empty cell",
                hint="a clip that shares nothing with others gets a word of its own, such as its id",
            )
        if row[place] in groups[shared[0]]:
            raise DatasetError(f"{path}, line {number}: the clip {row[place]} is there already")
        for name, word in zip(header, row, strict=True):
            if name != CLIP:
                groups[name][row[place]] = word
    return groups


def group_columns(groups: Groups, clips: Sequence[str], *, where: object = "") -> dict[str, list[str]]:
    """The groups of samples by column, from the clip of each sample; each clip alone is the first column.

    Raises
    ------
    DatasetError
        A clip that the groups lack.
    """
    columns = {CLIP: list(clips)}
    for name, group_of in groups.items():
        missing = [clip for clip in dict.fromkeys(clips) if clip not in group_of]
        if missing:
            raise DatasetError(
                f"{where}: no line for {len(missing)} of {len(set(clips))} clips, such as {', '.join(missing[:3])}",
                hint="every clip of the split that is scored needs a line",
            )
        columns[name] = [group_of[clip] for clip in clips]
    return columns
