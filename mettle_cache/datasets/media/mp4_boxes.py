"""The boxes that MP4 and QuickTime files are made of: a length, a kind of four letters, content or further boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mettle_cache.datasets.media.fault import MediaFileError

MOST_BOXES = 1_000_000
"""Far more than hours of fragments have: a file of nothing but empty boxes must not be walked for minutes."""
_NESTS = frozenset(b"moov trak mdia minf stbl moof traf cmov".split())
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Where in its content a box tells how many samples it describes; entries for each may follow, or none."""
_SAMPLES_A_BYTE = {b"stsz": 8, b"stz2": 8, b"trun": 1}
"""At most: QuickTime's oldest codecs count what comes out of them, up to six to a byte."""
_MOST_UNPACKED = 1 << 26


@dataclass(frozen=True)
class Box:
    """Offsets in the file; ``end`` may lie beyond what there is."""

    kind: bytes
    content: int
    end: int


def boxes(file: BinaryIO, at: int, end: int) -> Iterator[Box]:
    """The boxes that follow one another from ``at`` to ``end``, or to a length that is left open or makes no sense."""
    for _ in range(MOST_BOXES):
        if at >= end:
            return
        file.seek(at)
        head = file.read(16)
        length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, start = int.from_bytes(head[8:], "big"), 16
        if len(kind) < 4 or length < start:
            return
        yield Box(kind, at + start, at + length)
        at += length


def refuse_absurd_counts(path: Path) -> None:
    """FFmpeg takes memory for each sample that a file counts, before it looks for one.

    Raises
    ------
    MediaFileError
        It counts more samples than it has bytes, or holds a packed header of many megabytes.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        least = 0
        for box in _nested(path, file, size):
            file.seek(box.content)
            if box.kind in _COUNT_AT:
                at = _COUNT_AT[box.kind]
                least += int.from_bytes(file.read(at + 4)[at:], "big") // _SAMPLES_A_BYTE[box.kind]
            elif box.kind == b"cmvd" and (unpacked := int.from_bytes(file.read(4), "big")) > _MOST_UNPACKED:
                raise MediaFileError(path, f"has a packed header of {unpacked} bytes")
        if least > size:
            raise MediaFileError(path, f"is damaged: it counts samples that take {least} bytes, it has {size}")


def _nested(path: Path, file: BinaryIO, size: int) -> Iterator[Box]:
    """Every box of the file, those within others too."""
    levels = [boxes(file, 0, size)]
    for _ in range(MOST_BOXES):
        if (box := next(levels[-1], None)) is not None:
            yield box
            if box.kind in _NESTS:
                levels.append(boxes(file, box.content, min(box.end, size)))
        elif len(levels) > 1:
            levels.pop()
        else:
            return
    raise MediaFileError(path, f"consists of more than {MOST_BOXES} boxes")
