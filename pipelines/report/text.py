"""Text that people read: whatever is in it, it moves no cursor, sets no colour and forges no line."""

from __future__ import annotations

import os
import unicodedata

# control characters, invisible ones that change the order of others, lone surrogates, and separators of lines
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""``text`` with the characters escaped that a terminal would act on: an escape sequence shows as ``\x1b[31m``.

    Line breaks stay, and the lines after the first begin with a blank, so that none passes for a line of our own. A
    byte of a name that is not UTF-8 shows as ``\xe9``.
    """
    first, *others = text.split("\n")
    lines = [first, *(line if line.startswith(" ") or not line else f"  {line}" for line in others)]
    return "\n".join(map(_escaped, lines))


def encodable(text: str) -> str:
    r"""``text`` without lone surrogates, which are no Unicode: a byte of a name that is not UTF-8 becomes ``\xe9``."""
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(line: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    escaped = (
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _UNPRINTABLE else letter
        for letter in encodable(line)
    )
    return "".join(escaped)
