"""What AVE's annotation files say: events in Annotations.txt, categories.txt, and which row is in which split.

A split is a ``<split>Set.txt``, a ``<split>_order.h5``, or both (docs/protocols/avel.md, "Annotation files" and
"Categories").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mettle_cache.datasets.textfile import Line, Problems, id_problem, quoted, read_lines
from mettle_cache.errors import DatasetError

SECONDS = 10

CATEGORIES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
"""The published categories in canonical order; background, class 28, is implicit."""


@dataclass(frozen=True)
class AnnotatedRow:
    """One line ``Category&VideoID&Quality&StartTime&EndTime``: an event in the seconds ``[start, end)``."""

    category: str
    clip: str
    start: int
    end: int


def read_categories(root: Path, problems: Problems) -> tuple[str, ...]:
    """The names of categories.txt, or the published ones when there is no such file."""
    path = root / "categories.txt"
    if not path.exists():
        return CATEGORIES
    names: list[str] = []
    for line in read_lines(path, problems):
        name = line.text.strip()
        if "&" in name or not name.isprintable():
            problems.add(line.problem(f"{quoted(name)} is not a category name"))
        elif name in names:
            problems.add(line.problem(f"{quoted(name)} is listed twice"))
        names.append(name)
    if not names:
        problems.add(f"{path}: lists no categories")
    return tuple(names)


def read_rows(path: Path, categories: Sequence[str], problems: Problems) -> list[AnnotatedRow]:
    """The rows of Annotations.txt, in order, so that an index is the row number that order files use."""
    rows: list[AnnotatedRow] = []
    first_seen: dict[AnnotatedRow, int] = {}
    for line, row in parse_rows(path, problems):
        if row.category not in categories:
            problems.add(line.problem(f"unknown category {quoted(row.category)}"))
        if row in first_seen:
            problems.add(line.problem(f"the same sample as in line {first_seen[row]}"))
        first_seen.setdefault(row, line.number)
        rows.append(row)
    if not rows and not problems.count:
        problems.add(f"{path}: holds no rows")
    return rows


def parse_rows(path: Path, problems: Problems) -> Iterator[tuple[Line, AnnotatedRow]]:
    """Well-formed rows with their lines; a header, which only some copies have, is recognised by its first field."""
    for index, line in enumerate(read_lines(path, problems)):
        fields = line.text.split("&")
        if index == 0 and fields[0] == "Category":
            continue
        row = _parse_fields(fields)
        if isinstance(row, str):
            problems.add(line.problem(row))
        else:
            yield line, row


def _parse_fields(fields: list[str]) -> AnnotatedRow | str:
    """The row, or what is wrong with it."""
    if len(fields) != 5:
        return f"{len(fields)} fields separated by '&', not 5: {quoted('&'.join(fields))}"
    category, clip, _, start_text, end_text = (field.strip() for field in fields)
    start, end = _seconds(start_text), _seconds(end_text)
    if problem := id_problem(clip):
        return problem
    if start is None or end is None:
        return f"times {quoted(start_text)} and {quoted(end_text)} are not whole seconds from 0 to {SECONDS}"
    if start > end:
        return f"the event starts at {start} s and ends at {end} s"
    return AnnotatedRow(category, clip, start, end)


def _seconds(text: str) -> int | None:
    # int() alone would take signs, underscores, blanks and the digits of every script
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        return None
    return int(text) if int(text) <= SECONDS else None


SPLITS = ("train", "val", "test")

_MAX_CHUNK = 1 << 20
"""Rows of an order file that are unpacked at once, however few of them there are."""


def read_splits(root: Path, rows: list[AnnotatedRow], problems: Problems) -> list[str | None]:
    """The split of each row; None for rows that no split lists.

    Raises
    ------
    DatasetError
        A split that has neither file, or a file that cannot be read.
    """
    _require_files(root)
    splits: list[str | None] = [None] * len(rows)
    for split in SPLITS:
        for index in _split_rows(root, split, rows, problems):
            if splits[index] is not None:
                problems.add(f"row {index} ({rows[index].clip}) is both in {splits[index]} and in {split}")
            splits[index] = split
    return splits


def _require_files(root: Path) -> None:
    missing = [s for s in SPLITS if not (root / f"{s}Set.txt").exists() and not (root / f"{s}_order.h5").exists()]
    if missing:
        names = ", ".join(f"{split}Set.txt or {split}_order.h5" for split in missing)
        raise DatasetError(
            f"{root} does not say which rows are {' and '.join(missing)}: there is no {names}",
            hint=f"copy {names} from the AVE release to {root}; either file of a split serves",
        )


def _split_rows(root: Path, split: str, rows: list[AnnotatedRow], problems: Problems) -> list[int]:
    text, order = root / f"{split}Set.txt", root / f"{split}_order.h5"
    if not text.exists():
        return _read_order(order, len(rows), problems)
    before = problems.count
    listed = _read_set(text, rows, problems)
    # a comparison after a malformed line would only repeat it for all lines that follow
    if order.exists() and problems.count == before:
        _compare(listed, _read_order(order, len(rows), problems), text, order, problems)
    return listed


def _read_set(path: Path, rows: list[AnnotatedRow], problems: Problems) -> list[int]:
    numbers = {row: index for index, row in enumerate(rows)}
    listed: dict[int, int] = {}
    for line, row in parse_rows(path, problems):
        index = numbers.get(row)
        if index is None:
            problems.add(line.problem("no such row in Annotations.txt"))
        elif index in listed:
            problems.add(line.problem(f"the same sample as in line {listed[index]}"))
        else:
            listed[index] = line.number
    if not listed:
        problems.add(f"{path}: names no row of Annotations.txt")
    return list(listed)


def _read_order(path: Path, count: int, problems: Problems) -> list[int]:
    """Row numbers of an order file, each at most once, those that are no row left out."""
    order = [int(index) for index in _read_h5(path, count)]
    good = list(dict.fromkeys(index for index in order if 0 <= index < count))
    if not order:
        problems.add(f"{path}: lists no rows")
    elif len(good) < len(order):
        problems.add(f"{path}: of {len(order)} row numbers only {len(good)} are distinct and from 0 to {count - 1}")
    return good


def _read_h5(path: Path, count: int) -> np.ndarray:
    """The int vector ``order``, at most ``count`` long, from the file itself and not from one that it links to."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            link = file.get("order", getlink=True)
            order = file["order"] if isinstance(link, h5py.HardLink) else None
            if not isinstance(order, h5py.Dataset) or order.is_virtual or order.external:
                raise DatasetError(f"{path} has no data set named 'order'")
            if order.ndim != 1 or order.dtype.kind not in "iu":
                raise DatasetError(
                    f"{path}: 'order' holds {order.dtype} of shape {order.shape}, not a list of integers"
                )
            if order.size > count:
                raise DatasetError(f"{path}: 'order' lists {order.size} rows, Annotations.txt has {count}")
            if order.chunks and order.chunks[0] > _MAX_CHUNK:
                raise DatasetError(f"{path}: 'order' is stored in chunks of {order.chunks[0]} rows for {order.size}")
            return np.asarray(order[()])
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5: {str(error) or type(error).__name__}") from error


def _compare(listed: list[int], order: list[int], text: Path, order_path: Path, problems: Problems) -> None:
    if listed == order:
        return
    if len(listed) != len(order):
        problems.add(f"{text} and {order_path} disagree: {len(listed)} rows and {len(order)} rows")
        return
    at = next(place for place, (left, right) in enumerate(zip(listed, order, strict=True)) if left != right)
    problems.add(f"{text} and {order_path} disagree: entry {at} is row {listed[at]} and row {order[at]}")
