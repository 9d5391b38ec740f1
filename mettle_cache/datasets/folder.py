"""A user's own data with no code at all: ``clips.csv`` and the media beside it, for the AVEL task.

The table has a header and a row a clip, as spreadsheets export it (UTF-8, commas, quotes around a label with commas)::

    id,split,label,start,end
    barking_03,train,Dog,2,7
    barking_04,val,Dog,,
    street_01,test,background,,

``id``
    1 to 64 letters, digits, ``-`` and ``_``, each once: a clip has one event. Its media are ``ID.mp4``, or ``ID.wav``
    and a folder ``ID/`` of numbered pictures (.jpg or .png); other endings of videos and recordings serve as well.
``split``
    ``train``, ``val`` or ``test``.
``label``
    The event's category. The categories are all labels in the order of their characters, whatever the order of the
    rows, each always written in the same way. ``background`` means that nothing happens in the clip.
``start``, ``end``
    The event in whole seconds, ``[start, end)``. Without these columns, or where both are empty, it lasts throughout.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mettle_cache.datasets.media.places import Layout, Place
from mettle_cache.datasets.media_dataset import MediaDataset, media_dataset
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, DatasetInfo, DatasetOption
from mettle_cache.datasets.textfile import Line, Problems, id_problem, quoted, read_lines
from mettle_cache.errors import DatasetError

TABLE = "clips.csv"
COLUMNS = ("id", "split", "label")
TIMES = ("start", "end")
SPLITS = ("train", "val", "test")
BACKGROUND = "background"

DURATION = 10
LONGEST = 600

SAMPLE_SCHEMA = pa.schema(
    [*SAMPLE_COLUMNS, ("category", pa.string()), ("start", pa.int64()), ("end", pa.int64())],
)
"""The event is the whole seconds ``[start, end)``; the category is null, and both are 0, where there is none."""

LAYOUT = Layout(frames=(Place(""), Place("", ".mp4")), audio=(Place("", ".wav"), Place("", ".mp4")))


@dataclass(frozen=True)
class LabelledClip:
    """One row: ``label`` is in the seconds ``[start, end)``; None for a clip in which nothing happens."""

    clip: str
    split: str
    label: str | None
    start: int
    end: int


def open_folder(root: Path, *, duration: str = str(DURATION)) -> MediaDataset:
    """Read ``clips.csv`` under ``root`` and find the media beside it; ``duration`` is T, the seconds of a clip.

    Raises
    ------
    DatasetError
        There is no table, or every problem found in it, in one message.
    """
    table = root / TABLE
    if not table.exists():
        raise DatasetError(
            f"there is no {TABLE} in {root}",
            hint=f"write one with the header {','.join((*COLUMNS, *TIMES))} and a row a clip, media beside it",
        )
    problems = Problems()
    rows = read_clips(table, int(duration), problems)
    categories = sorted({row.label for row in rows if row.label is not None})
    if not categories and not problems.count:
        problems.add(f"{table}: labels no clip with anything but {BACKGROUND}" if rows else f"{table}: holds no rows")
    problems.raise_if_any(root)
    return media_dataset(
        name=INFO.name,
        root=root,
        segments=int(duration),
        samples=_samples(rows),
        vocabulary={"categories": categories},
        layout=LAYOUT,
        notes=tuple(_notes(rows)),
    )


INFO = DatasetInfo(
    name="folder",
    title="Your own clips, one event each, described by clips.csv",
    segments=DURATION,
    default_root=Path("data/folder"),
    layouts=(
        "clips.csv (id,split,label or id,split,label,start,end) and <id>.mp4 (.webm, .mkv, .mov, ... too)",
        "clips.csv, <id>.wav and <id>/%08d.jpg",
    ),
    open=open_folder,
    many=True,
    options=(
        DatasetOption(
            name="duration", default=str(DURATION), help="seconds of a clip, its segments", whole_numbers=(1, LONGEST)
        ),
    ),
)


def read_clips(table: Path, seconds: int, problems: Problems) -> list[LabelledClip]:
    """The rows of the table, in order; a row with a problem is left out."""
    rows: list[LabelledClip] = []
    first_seen: dict[str, int] = {}
    labels: dict[str, str] = {}
    for line, cells in _read_cells(table, problems):
        row = _parse_row(cells, seconds)
        if isinstance(row, str):
            problems.add(line.problem(row))
            continue
        if row.clip in first_seen:
            where = first_seen[row.clip]
            problems.add(line.problem(f"the clip {row.clip} is in line {where} already: a clip has one event"))
        first_seen.setdefault(row.clip, line.number)
        if row.label is not None and (first := labels.setdefault(_looks(row.label), row.label)) != row.label:
            problems.add(line.problem(f"the label {quoted(row.label)} is written {quoted(first)} further up"))
        rows.append(row)
    return rows


def _looks(label: str) -> str:
    """The same for labels that a reader takes for one: of other capitals, or of other code points for the letters."""
    return unicodedata.normalize("NFKC", label).casefold()


def _read_cells(table: Path, problems: Problems) -> Iterator[tuple[Line, dict[str, str]]]:
    """The cells of each row by column; rows of another length than the header's are problems."""
    header: list[str] | None = None
    for line in read_lines(table, problems):
        try:
            # line by line, so that a forgotten quote cannot swallow the rest of the file
            cells = [cell.strip() for cell in next(csv.reader([line.text], strict=True))]
        except csv.Error as error:
            problems.add(line.problem(f"is no row of a CSV file: {error}"))
            continue
        if header is None:
            header = cells
            if problem := _header_problem(cells):
                problems.add(line.problem(problem))
                return
        elif len(cells) != len(header):
            problems.add(line.problem(f"{len(cells)} cells separated by commas, not {len(header)}"))
        else:
            yield line, dict(zip(header, cells, strict=True))


def _header_problem(cells: Sequence[str]) -> str | None:
    if sorted(cells) in (sorted(COLUMNS), sorted((*COLUMNS, *TIMES))):
        return None
    shown = ", ".join(quoted(cell) for cell in cells[:8])
    return f"the header must be {','.join(COLUMNS)} or {','.join((*COLUMNS, *TIMES))}, in any order; it is {shown}"


def _parse_row(cells: dict[str, str], seconds: int) -> LabelledClip | str:
    """The row, or what is wrong with it."""
    clip, split, label = (cells[name] for name in COLUMNS)
    start, end = (cells.get(name, "") for name in TIMES)
    if problem := id_problem(clip):
        return problem
    if split not in SPLITS:
        return f"the split {quoted(split)} is not one of {', '.join(SPLITS)}"
    if not label or not label.isprintable():
        return f"the label {quoted(label)} is not a name"
    if label.casefold() == BACKGROUND:
        return (
            LabelledClip(clip, split, None, 0, 0) if not start + end else f"{BACKGROUND} is no event: it has no times"
        )
    if not start and not end:
        return LabelledClip(clip, split, label, 0, seconds)
    first, last = _seconds(start, seconds), _seconds(end, seconds)
    if first is None or last is None:
        return f"times {quoted(start)} and {quoted(end)} are not whole seconds from 0 to {seconds}"
    if first >= last:
        return f"the event starts at {first} s and ends at {last} s"
    return LabelledClip(clip, split, label, first, last)


def _seconds(text: str, longest: int) -> int | None:
    # int() alone would take signs, underscores, blanks and the digits of every script
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LONGEST))):
        return None
    return int(text) if int(text) <= longest else None


def _samples(rows: Sequence[LabelledClip]) -> pa.Table:
    columns = {
        "row": list(range(len(rows))),
        "clip": [row.clip for row in rows],
        "split": [row.split for row in rows],
        "category": [row.label for row in rows],
        "start": [row.start for row in rows],
        "end": [row.end for row in rows],
    }
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _notes(rows: Sequence[LabelledClip]) -> Iterator[str]:
    """What will be missed later, though nothing is wrong with the table."""
    for split in SPLITS:
        if not any(row.split == split for row in rows):
            yield f"no clip is in {split}"
    learnt = {row.label for row in rows if row.split == "train"}
    unseen = sorted({row.label for row in rows if row.label is not None} - learnt)
    if unseen and any(row.split == "train" for row in rows):
        yield f"labels without a train clip, which cannot be learnt: {len(unseen)}, such as {quoted(unseen[0])}"
