"""Columns of plain text, and long lines under their words."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

GAP = "  "
# ``note       a sentence``: a word, and what it is about from the twelfth character on
_LABELLED = re.compile(r"(?=[a-z].{9} \S)(?:[a-z0-9]+(?: [a-z0-9]+)* {2,}|[a-z]{10} )")
# what is copied into a shell is never broken: words between backticks, and what begins as a command
_KEPT = re.compile(r"`[^`]*`|\bmettle [a-z].*")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def page_width() -> int:
    """Columns of the terminal within 60 and 100; 80 where there is none."""
    return min(100, max(60, shutil.get_terminal_size().columns))


def table_lines(header: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> list[str]:
    """Left-aligned words and right-aligned numbers under a header; None is a dash.

    With ``width`` the widest columns of words are broken into lines where the table would be wider than that.
    """
    lines = [list(header), *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in range(len(header))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if width is not None:
        widths = _fit(lines, widths, width)

    def align(cells: Sequence[str]) -> str:
        aligned = [
            cell.rjust(limit) if right else cell.ljust(limit)
            for cell, limit, right in zip(cells, widths, numeric, strict=True)
        ]
        return GAP.join(aligned).rstrip()

    broken = ([_break(cell, limit) for cell, limit in zip(line, widths, strict=True)] for line in lines)
    return [align(cells) for parts in broken for cells in zip_longest(*parts, fillvalue="")]


def hanging_lines(before: str, text: str, width: int) -> list[str]:
    """``text`` after ``before``, broken at ``width`` with its further lines under its first; commands stay whole."""
    kept = _KEPT.sub(lambda match: match[0].replace(" ", _NO_BREAK), text)
    indent = " " * len(before)
    lines = textwrap.wrap(
        kept, width, initial_indent=before, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_NO_BREAK, " ") for line in lines] or [before.rstrip()]


def labelled_lines(line: str, width: int) -> list[str]:
    """A line such as ``note       a long sentence``, broken under its sentence; any other line stays as it is."""
    label = _LABELLED.match(line)
    if len(line) <= width or label is None or "\n" in line:
        return [line]
    return hanging_lines(label[0], line[label.end() :], width)


def broken_lines(broken: Mapping[str, str]) -> list[str]:
    """One line for each entry point of an installed package that is of no use, and why."""
    return [f"cannot be used: {name}: {reason}" for name, reason in broken.items()]


def _fit(lines: Sequence[Sequence[str]], widths: Sequence[int], width: int) -> list[int]:
    """Widths of the columns that make a table of ``width``, or the narrowest that break no word."""
    widths = list(widths)
    least = [
        max((len(word) for line in lines for word in line[column].split()), default=0) for column in range(len(widths))
    ]
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        spare = [column for column in range(len(widths)) if widths[column] > least[column]]
        if not spare:
            break
        widths[max(spare, key=lambda column: widths[column])] -= 1
    return widths


def _break(cell: str, limit: int) -> list[str]:
    if len(cell) <= limit:
        return [cell]
    return textwrap.wrap(cell, limit, break_long_words=False, break_on_hyphens=False)
