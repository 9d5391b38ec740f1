"""Sheets of questions: the answers with their probabilities, the annotated one in its own colour."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from mettle_cache.pipelines.figures.question_sheet import AskedQuestion, draw_question_sheet
from mettle_cache.pipelines.figures.style import BLUE, ORANGE


def test_bars_are_as_long_as_the_probabilities_and_tell_the_annotated_answer():
    question = AskedQuestion(
        title="v1, Audio Counting",
        question="How many instruments are sounding",
        answers=(("two", 0.5), ("one", 0.25)),
        right="one",
        picture=np.zeros((4, 8, 3), np.uint8),
    )
    page = draw_question_sheet([question], rule="1 of 5").axes[0]
    lengths = [bar.get_width() for bar in page.patches]
    assert lengths[0] == pytest.approx(2 * lengths[1])
    assert [bar.get_facecolor() for bar in page.patches] == [to_rgba(ORANGE), to_rgba(BLUE)]
    texts = [text.get_text() for text in page.texts]
    assert texts[1:] == [
        "v1, Audio Counting",
        "How many instruments are sounding",
        "two",
        "0.50",
        "one",
        "0.25",
    ]
    left, right, bottom, top = page.images[0].get_extent()
    assert (right - left) == pytest.approx(2 * (bottom - top))


def test_an_answer_that_nobody_could_learn_is_named():
    question = AskedQuestion(title="t", question="Where", answers=(("two", 1.0),), right="left", picture=None)
    texts = [text.get_text() for text in draw_question_sheet([question], rule="1 of 1").axes[0].texts]
    assert texts[-1] == "annotated: left, not in training"
