"""Files that certainly lost their end: a part of the file promises more than there is.

MP4 and QuickTime files are a row of boxes, each with its length; a segment index (sidx) also tells the lengths of boxes
to come, and the header of a fragmented file may tell its duration (mehd). A Matroska file is one segment whose length
its writer fills in at the end. Where such a length lies beyond the file's end, a download or a copy was not finished. A
length that is left open (0, or "unknown") proves nothing, and so does what is no box at all: cameras pad their files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.mp4_boxes import Box, boxes

_KINDS = frozenset(b"ftyp moov mdat moof mfra free skip wide styp sidx ssix emsg prft uuid meta pdin udta pnot".split())
_MOST_FIELDS = 1 << 20
"""Bytes: 12 for each of the 65,535 references that a segment index may hold."""
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def refuse_cut_file(path: Path) -> None:
    """Look at the lengths in an MP4, QuickTime or Matroska file. Raises MediaFileError where the end is lost."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        end, what = max(((_segment_end(file), "segment"), *_promised_ends(file, size)))
    if end > size:
        raise MediaFileError(
            path,
            f"is cut off: its {what} goes on to byte {end}, the file has {size}",
            hint="fetch or copy it again",
        )


def promised_seconds(path: Path) -> float | None:
    """The length of a fragmented MP4 as its header tells it; None where it does not, or is no such file."""
    with path.open("rb") as file:
        outermost = Box(b"", 0, file.seek(0, 2))
        header = _first(file, outermost, b"moov")
        movie = _content(file, _first(file, header, b"mvhd"))
        fragments = _content(file, _first(file, _first(file, header, b"mvex"), b"mehd"))
    if len(movie) < 24 or len(fragments) < 12 - 4 * (fragments[:1] != b"\1"):
        return None
    scale = int.from_bytes(movie[20:24] if movie[0] == 1 else movie[12:16], "big")
    duration = int.from_bytes(fragments[4:12] if fragments[0] == 1 else fragments[4:8], "big")
    return duration / scale if scale else None


def _promised_ends(file: BinaryIO, size: int) -> Iterator[tuple[int, str]]:
    """Where each box ends, and what an index announces."""
    for box in _known_boxes(file):
        yield box.end, f"{box.kind.decode()} box"
        if box.kind == b"sidx" and box.end <= size:
            yield box.end + _announced(_content(file, box)), "index (sidx box)"


def _known_boxes(file: BinaryIO) -> Iterator[Box]:
    """The outermost boxes, up to the end of the file or to what is none."""
    return takewhile(lambda box: box.kind in _KINDS, boxes(file, 0, file.seek(0, 2)))


def _first(file: BinaryIO, outer: Box | None, kind: bytes) -> Box | None:
    inside = () if outer is None else boxes(file, outer.content, outer.end)
    return next((box for box in inside if box.kind == kind), None)


def _content(file: BinaryIO, box: Box | None) -> bytes:
    """The first fields of a box; nothing where there is none."""
    if box is None:
        return b""
    file.seek(box.content)
    return file.read(min(_MOST_FIELDS, box.end - box.content))


def _announced(sidx: bytes) -> int:
    """Bytes after itself that a segment index announces; 0 for a malformed one."""
    # version and flags, reference id, time scale; then time and offset, 4 or 8 bytes each, and the count of references
    fields = struct.Struct(">QQHH" if sidx[:1] == b"\1" else ">IIHH")
    if len(sidx) < 12 + fields.size:
        return 0
    _, offset, _, count = fields.unpack_from(sidx, 12)
    references = sidx[12 + fields.size :][: 12 * count]
    if len(references) < 12 * count:
        return 0
    return int(offset) + sum(
        int.from_bytes(references[at : at + 4], "big") & 0x7FFFFFFF for at in range(0, 12 * count, 12)
    )


def _segment_end(file: BinaryIO) -> int:
    """Where the Matroska segment ends by its own length; 0 where that is unknown."""
    file.seek(0)
    head = file.read(4096)
    if not head.startswith(_EBML):
        return 0
    length, at = _variable_size(head, len(_EBML))
    at += length or 0
    if head[at : at + 4] != _SEGMENT:
        return 0
    length, start = _variable_size(head, at + 4)
    return 0 if length is None else start + length


def _variable_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The number at ``at``, whose first byte tells its width by its leading zeros, and where it ends; None: unknown."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    unknown = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width], "big") & unknown
    return (None if first == 0 or value == unknown else value), at + width
