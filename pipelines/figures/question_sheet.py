"""A sheet of questions about videos: a picture, what is asked, and the likeliest answers with their probabilities."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mettle_cache.pipelines.figures.style import (
    BLUE,
    COLUMN_MM,
    ORANGE,
    legend_row,
    new_page,
    no_picture,
    shorten,
    show_picture,
    styled,
)

MOST_ANSWERS = 4
LEGEND = (("annotated answer", BLUE), ("another answer", ORANGE))
_MM_MARGIN, _MM_GAP, _MM_LINE, _MM_PICTURE = 1.5, 1.0, 3.6, 22.0
_MM_TEXT = _MM_MARGIN + _MM_PICTURE + 2 * _MM_GAP
_MM_BAR = _MM_TEXT + 22.0
_MM_A_ONE = COLUMN_MM - _MM_BAR - 11.0
_LETTERS, _TITLE_LETTERS, _QUESTION_LETTERS, _ANSWER_LETTERS = 56, 34, 38, 14


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """``answers`` are those shown with their probabilities, the likeliest first: that one is predicted.

    ``right`` is the annotated answer, shown or not; ``picture`` RGB ``[H, W, 3]`` or None.
    """

    title: str
    question: str
    answers: tuple[tuple[str, float], ...]
    right: str
    picture: NDArray[np.uint8] | None


@styled
def draw_question_sheet(questions: Sequence[AskedQuestion], *, rule: str) -> Figure:
    """One row a question; ``rule`` says how they were chosen."""
    lines = textwrap.wrap(f"{rule}. The answer at the top is predicted", _LETTERS)
    head = _MM_LINE * (len(lines) + 1) + 3 * _MM_GAP
    row = max(_MM_PICTURE, _MM_LINE * (3 + MOST_ANSWERS)) + 3 * _MM_GAP
    figure, page = new_page(head + row * len(questions))
    legend_row(page, _MM_GAP, LEGEND)
    for number, line in enumerate(lines, start=1):
        page.text(COLUMN_MM / 2, _MM_GAP + _MM_LINE * number, line, ha="center", va="top")
    for number, question in enumerate(questions):
        _draw_question(page, question, head + number * row)
    return figure


def _draw_question(page: Axes, question: AskedQuestion, top: float) -> None:
    _draw_picture(page, question.picture, top)
    page.text(_MM_TEXT, top, shorten(question.title, _TITLE_LETTERS), va="top", weight="bold")
    asked = textwrap.wrap(question.question, _QUESTION_LETTERS, max_lines=2, placeholder=" …") or [""]
    for number, line in enumerate(asked, start=1):
        page.text(_MM_TEXT, top + number * _MM_LINE, line, va="top")
    bars = top + (1 + len(asked)) * _MM_LINE
    for number, (answer, probability) in enumerate(question.answers):
        middle = bars + (number + 0.5) * _MM_LINE
        colour = BLUE if answer == question.right else ORANGE
        page.text(_MM_TEXT, middle, shorten(answer, _ANSWER_LETTERS), va="center")
        page.add_patch(Rectangle((_MM_BAR, middle - 1.2), probability * _MM_A_ONE, 2.4, facecolor=colour, linewidth=0))
        page.text(_MM_BAR + probability * _MM_A_ONE + 1, middle, f"{probability:.2f}", va="center")
    if question.right not in [answer for answer, _ in question.answers]:
        middle = bars + (len(question.answers) + 0.5) * _MM_LINE
        page.text(_MM_TEXT, middle, shorten(f"annotated: {question.right}, not in training", 40), va="center")


def _draw_picture(page: Axes, picture: NDArray[np.uint8] | None, top: float) -> None:
    """As large as fits, in its own shape."""
    shown = no_picture() if picture is None else picture
    height, width = shown.shape[:2]
    scale = _MM_PICTURE / max(height, width)
    show_picture(page, shown, _MM_MARGIN, top, width * scale, height * scale)
