"""Annotation text as users have it: read line by line, nothing trusted, every problem reported at once."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mettle_cache.errors import DatasetError

MAX_FILE_BYTES = 16 << 20
MAX_LINE_BYTES = 4096
MAX_LISTED = 20
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Line:
    """One non-empty line without its line end; ``number`` counts from 1."""

    path: Path
    number: int
    text: str

    def problem(self, what: str) -> str:
        return f"{self.path}:{self.number}: {what}"


@dataclass
class Problems:
    """Collects what is wrong with a data set's annotations, to be told in one message."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.listed) < MAX_LISTED:  # a file of millions of bad lines must not fill the memory
            self.listed.append(problem)

    def raise_if_any(self, where: Path, *, hint: str | None = None) -> None:
        """Raise a DatasetError that lists the first problems and counts the rest."""
        if not self.count:
            return
        lines = [f"the annotations in {where} have {self.count} problem{'s' if self.count > 1 else ''}:"]
        lines += [f"  - {problem}" for problem in self.listed]
        if self.count > len(self.listed):
            lines.append(f"  ... and {self.count - len(self.listed)} more")
        raise DatasetError("\n".join(lines), hint=hint)


def read_lines(path: Path, problems: Problems, *, limit: int = MAX_FILE_BYTES) -> Iterator[Line]:
    """The non-empty lines of a UTF-8 text file, with LF, CRLF or CR ends and with or without a byte order mark.

    A line that is too long or not UTF-8 is added to ``problems`` and left out.

    Raises
    ------
    DatasetError
        The file cannot be read, is UTF-16, or is larger than ``limit`` bytes.
    """
    content = read_bytes(path, limit=limit).removeprefix(b"\xef\xbb\xbf")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{path} is UTF-16 text", hint="save it as UTF-8")
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    # str.splitlines would also cut at a dozen Unicode separators and shift every later line number
    for number, line in enumerate(io.BytesIO(content), start=1):
        raw = line.removesuffix(b"\n")
        if len(raw) > MAX_LINE_BYTES:
            problems.add(f"{path}:{number}: the line is {len(raw)} bytes long")
            continue
        try:
            text = raw.decode().strip("\r")
        except UnicodeDecodeError as error:
            problems.add(f"{path}:{number}: not UTF-8 at byte {error.start + 1} of the line")
            continue
        if text.strip():
            yield Line(path, number, text)


def read_bytes(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """A regular file of at most ``limit`` bytes. Raises DatasetError."""
    try:
        if not path.is_file():
            raise DatasetError(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(limit + 1)  # whatever size it claims, and however it grows
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise DatasetError(f"{path} is larger than {limit >> 20} MB, too large for annotations")
    return content


def quoted(text: str) -> str:
    """``text`` for a message: plain ASCII without control characters, shortened."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


def escaped(text: object) -> str:
    r"""``text`` as one line that a terminal only shows: letters that do not print are written out.

    >>> escaped("frame\n1.jpg")
    'frame\\n1.jpg'
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def id_problem(text: str) -> str | None:
    """Why ``text`` cannot be a media id, or None.

    An id becomes part of a path, so it is 1 to 64 ASCII letters, digits, ``-`` and ``_``: nothing that could leave the
    root, name two files, or look like another id.
    """
    if _ID.fullmatch(text):
        return None
    return f"the id {quoted(text)} is not 1 to 64 letters, digits, - or _"
