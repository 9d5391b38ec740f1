"""Whether every page of an Ogg file is there: decoders pass over those that are damaged, and time with them.

Source: RFC 3533, section 6.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from mettle_cache.datasets.media.fault import MediaFileError

_MAGIC = b"OggS"
_HEADER = 27
_TWO_PAGES = 1 << 17
_KIND, _FIRST = 5, 2
"""The byte of flags in a page's header, and the flag of a stream's first page; all streams begin before any goes on."""
_CHECKSUM = slice(22, 26)
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_ogg(path: Path) -> None:
    """Look at every page, if the file begins with one; what follows the last page is not looked at.

    Raises
    ------
    MediaFileError
        The file is cut off within a page, a page is damaged, or recordings are chained (section 4), of which
        decoders read the first.
    """
    begun = False
    with path.open("rb") as file:
        while True:
            at = file.tell()
            page = _read_page(file)
            if page is None:
                raise MediaFileError(path, f"is cut off: the Ogg page at byte {at} is not whole")
            if page[:4] != _MAGIC:
                if _MAGIC in file.read(_TWO_PAGES):
                    raise MediaFileError(path, f"is damaged: no Ogg page begins at byte {at}, yet some come later")
                return
            if _checksum(page) != int.from_bytes(page[_CHECKSUM], "little"):
                raise MediaFileError(path, f"is damaged: the Ogg page at byte {at} does not bear out its checksum")
            first = bool(page[_KIND] & _FIRST)
            if first and begun:
                raise MediaFileError(
                    path,
                    f"holds recordings one after another, of which decoders read the first: one begins at byte {at}",
                )
            begun = not first


def _read_page(file: BinaryIO) -> bytes | None:
    """The next page, the start of something else, or nothing at the end of the file; None for a part of a page."""
    head = file.read(_HEADER)
    if not head or head[:4] != _MAGIC[: len(head)]:
        return head
    if len(head) < _HEADER:
        return None
    lengths = file.read(head[26])
    body = file.read(sum(lengths))
    return head + lengths + body if (len(lengths), len(body)) == (head[26], sum(lengths)) else None


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial, but the highest bit of each byte first, and begun and ended with 0."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
