"""Columns of plain text, the same on a terminal and in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table_lines(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Left-aligned words and right-aligned numbers under a header; None is a dash."""
    body = [[("-" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *body]) for column in range(len(header))]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in range(len(header))]

    def align(line: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return [align(list(header)), *(align(line) for line in body)]


def broken_lines(broken: Mapping[str, str]) -> list[str]:
    """One line for each entry point of an installed package that is of no use, and why."""
    return [f"cannot be used: {name}: {reason}" for name, reason in broken.items()]
