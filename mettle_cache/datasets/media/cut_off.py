"""Files that certainly lost their end: a part of the file promises more than there is.

MP4 and QuickTime files are a row of boxes, each with its length; a segment index (sidx) also tells the lengths of boxes
to come, and the header of a fragmented file may tell its duration (mehd). A Matroska file is a segment of elements, an
AVI file a RIFF chunk. Where such a length lies beyond the file's end, a download or a copy was not finished. A length
that is left open (0, or "unknown") proves nothing, and so does what is none of these: cameras pad their files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.mp4_boxes import MOST_BOXES, Box, boxes

_KINDS = frozenset(b"ftyp moov mdat moof mfra free skip wide styp sidx ssix emsg prft uuid meta pdin udta pnot".split())
_MOST_FIELDS = 1 << 20
"""Bytes: 12 for each of the 65,535 references that a segment index may hold."""
_SEGMENT = b"\x18\x53\x80\x67"
_ELEMENTS = {
    b"\x1a\x45\xdf\xa3": "header",
    _SEGMENT: "segment",
    b"\x1f\x43\xb6\x75": "cluster",
    **dict.fromkeys((b"\xa3", b"\xa0", b"\xaf"), "block"),
    **dict.fromkeys((b"\xe7", b"\xab", b"\xa7", b"\x58\x54", b"\xec", b"\xbf"), "element"),
    **dict.fromkeys((b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"), "element"),
    **dict.fromkeys((b"\x1c\x53\xbb\x6b", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\x12\x54\xc3\x67"), "element"),
}
"""Matroska's, by the bytes of their numbers: those of a segment and those of a cluster."""
_RIFF_UNKNOWN, _RIFF_SLACK = 0x7FFF0000, 128


def refuse_cut_file(path: Path) -> None:
    """Look at the lengths in an MP4, QuickTime, Matroska or AVI file. Raises MediaFileError where the end is lost."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        end, what = max((_riff_end(file), *_element_ends(file, size), *_promised_ends(file, size)))
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


def _riff_end(file: BinaryIO) -> tuple[int, str]:
    """Where an AVI file ends by its own length, give or take a header that writers count in or forget."""
    file.seek(0)
    head = file.read(12)
    length = int.from_bytes(head[4:8], "little")
    # who cannot go back to write the length leaves the largest there is
    told = head[:4] == b"RIFF" and head[8:] == b"AVI " and length < _RIFF_UNKNOWN
    return (8 + length - _RIFF_SLACK if told else 0), "RIFF chunk"


def _element_ends(file: BinaryIO, size: int) -> Iterator[tuple[int, str]]:
    """Where each outer element of a Matroska file ends; of those with an unknown length, each of their own elements."""
    at = 0
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(12)
        kind = head[: 9 - head[0].bit_length()] if head else b""
        if at >= size or kind not in _ELEMENTS:
            return
        length, start = _variable_size(head, len(kind))
        if length is None:
            at += start
            continue
        yield at + start + length, _ELEMENTS[kind]
        # a segment of known length is looked into as well: its end may be right and its last cluster not
        at += start if kind == _SEGMENT else start + length


def _variable_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The number at ``at``, whose first byte tells its width by its leading zeros, and where it ends; None: unknown."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    unknown = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width], "big") & unknown
    return (None if first == 0 or value == unknown else value), at + width
