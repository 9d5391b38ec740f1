"""Whether a WAV or AIFF file holds the samples that its header promises.

Decoders read what is there and say nothing. But headers are wrong more often than files are cut off: who writes to a
pipe cannot know the size, others count the header in, or leave out a pad byte. What is said twice decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from mettle_cache.datasets.media.fault import MediaFileError

SLACK = 128
"""Bytes by which a size may be wrong without a word: writers count the header (44, or some 80 with tags), or only its
first 8 bytes, or a pad byte that is not there; so many bytes are 4 ms of speech."""

_PIPE = 1 << 16
"""Writers to a pipe promise 0, or a size this near to 2 or 4 GiB: 0x7ffff000 (sox), 2**31 (arecord), 2**32 - 1; or
2**64 - 1 where sizes have 64 bits."""

_MOST_CHUNKS = 1000
_RATES = frozenset({8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000})


@dataclass(frozen=True)
class _Form:
    order: Literal["little", "big"]
    samples: bytes
    """Name of the chunk that holds them."""


_FORMS = {
    (b"RIFF", b"WAVE"): _Form("little", b"data"),
    (b"RF64", b"WAVE"): _Form("little", b"data"),
    (b"BW64", b"WAVE"): _Form("little", b"data"),
    (b"RIFX", b"WAVE"): _Form("big", b"data"),
    (b"FORM", b"AIFF"): _Form("big", b"SSND"),
    (b"FORM", b"AIFC"): _Form("big", b"SSND"),
}


@dataclass
class _Header:
    """``whole`` is where the file ends by its first size; samples lie from ``start`` on, ``promised`` bytes of them."""

    whole: int
    start: int = 0
    promised: int = 0
    format: bytes = b""


def check_riff(path: Path, size: int) -> None:
    """Look at the sizes of a file of ``size`` bytes, if it is of this kind.

    Raises
    ------
    MediaFileError
        It is cut off, holds no samples, or its header contradicts itself so that decoders might misread it.
    """
    with path.open("rb") as file:
        head = file.read(12)
        form = _FORMS.get((head[:4], head[8:]))
        if form is None:
            return
        header = _read_header(file, form, size, int.from_bytes(head[4:8], form.order))
        if header is None:
            return
        if form.samples == b"data":
            _check_format(path, header.format, form)
        held, rest = size - header.start, header.start + header.promised
        if _from_a_pipe(header.promised):
            if held == 0 or (header.promised == 0 and _chunks(file, form, header.start, size)):
                raise MediaFileError(path, "holds no samples")
            return
        if header.promised - held > SLACK:
            _refuse_long(path, header, size)
        # after an odd number of bytes a pad byte belongs, which not all write
        following = _chunks(file, form, rest + rest % 2, size) or _chunks(file, form, rest, size)
        if form.samples in following:
            raise MediaFileError(path, "has its samples in several chunks, of which decoders read the first")
        if held - header.promised > SLACK and not following:
            _refuse_short(path, file, header, size)


def _refuse_long(path: Path, header: _Header, size: int) -> None:
    promised, held = header.promised, size - header.start
    if abs(header.whole - size) <= SLACK:
        raise MediaFileError(
            path, f"has a damaged header: the file is whole, yet promises {promised} bytes of samples, not {held}"
        )
    raise MediaFileError(path, f"is cut off: its header promises {promised} bytes of samples, {held} are there")


def _refuse_short(path: Path, file: BinaryIO, header: _Header, size: int) -> None:
    """What follows the samples is no chunk: something that was appended, unless the first size counts it in."""
    if abs(header.whole - size) > SLACK:
        return
    file.seek(header.start + header.promised)
    while piece := file.read(1 << 20):
        if piece.strip(b"\0"):
            raise MediaFileError(
                path,
                f"has a damaged header: it promises {header.promised} bytes of samples, "
                f"and what follows them is no other chunk ({size - header.start} bytes are there)",
            )


def _read_header(file: BinaryIO, form: _Form, size: int, promised: int) -> _Header | None:
    """The sizes as they are written, 64-bit ones where there are; None where no samples are announced."""
    header = _Header(whole=8 + promised)
    wide = 0
    at = 12
    for _ in range(_MOST_CHUNKS):
        name, length = _chunk(file, form, at)
        content = file.read(min(length, 40)) if name in (b"ds64", b"fmt ") else b""
        if name == b"ds64":
            header.whole, wide = 8 + int.from_bytes(content[:8], "little"), int.from_bytes(content[8:16], "little")
        elif name == b"fmt ":
            header.format = content
        elif name == form.samples:
            header.start = at + 8
            header.promised = wide if length == 2**32 - 1 and wide else length
            return header
        at += 8 + length + length % 2
        if not name or at >= size:
            return None
    return None


def _check_format(path: Path, content: bytes, form: _Form) -> None:
    """Refuse a number of channels or a rate that the sizes beside it show to be wrong: the length would be, too."""
    kind, channels = (int.from_bytes(content[at : at + 2], form.order) for at in (0, 2))
    rate, flow = (int.from_bytes(content[at : at + 4], form.order) for at in (4, 8))
    frame, bits = (int.from_bytes(content[at : at + 2], form.order) for at in (12, 14))
    if kind not in (1, 3, 0xFFFE) or not frame:
        return  # of compressed samples a frame is something else
    # a frame twice too large is what writers of stereo leave in mono files; of 24 bits in 4 bytes no two readers agree
    fitting = channels * -(-bits // 8)
    if flow == rate * frame and frame not in (fitting, 2 * fitting):
        raise MediaFileError(path, f"has a damaged header: {channels} channels of {bits} bits in {frame} bytes")
    if rate not in _RATES and flow % frame == 0 and flow // frame in _RATES:
        raise MediaFileError(path, f"has a damaged header: {rate} Hz by one entry, {flow // frame} Hz by another")


def _from_a_pipe(promised: int) -> bool:
    return promised == 0 or any(abs(promised - limit) <= _PIPE for limit in (2**31, 2**32, 2**64))


def _chunks(file: BinaryIO, form: _Form, at: int, size: int) -> list[bytes]:
    """Names of the chunks from ``at`` to the file's end, the last perhaps cut off by a few bytes; none for others."""
    names: list[bytes] = []
    for _ in range(_MOST_CHUNKS):
        name, length = _chunk(file, form, at)
        if not name:
            break
        at += 8 + length + length % 2
        if not (name.isascii() and name.decode("ascii").isprintable()) or at > size + SLACK:
            return []
        names.append(name)
    return names


def _chunk(file: BinaryIO, form: _Form, at: int) -> tuple[bytes, int]:
    """Name and length of the chunk at ``at``, whose content is read next; no name at the end of the file."""
    file.seek(at)
    head = file.read(8)
    return (head[:4], int.from_bytes(head[4:], form.order)) if len(head) == 8 else (b"", 0)
