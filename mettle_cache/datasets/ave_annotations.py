"""AVE's Annotations.txt and categories.txt (spec-avel.md 1.1 and 1.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.textfile import Line, Problems, id_problem, quoted, read_lines

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
