"""Bars of timelines: where they are, how high, and which are filled."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba

from mettle_cache.pipelines.figures.style import COLOURS
from mettle_cache.pipelines.figures.timelines import ClipTimeline, EventLane, draw_timelines


def test_bars_show_annotation_decision_and_score():
    annotated, predicted = np.array([True, False, True]), np.array([False, True, True])
    scores = np.array([0.25, 0.5, 1.0])
    lane = EventLane("Bark", annotated, (predicted, predicted), (scores, None))
    figure = draw_timelines([ClipTimeline("best", (lane,))], ["a", "b"], seconds=2.0)
    truth, first, second = (figure.axes[0].patches[start : start + 3] for start in (0, 3, 6))
    full = truth[0].get_height()
    assert [bar.get_height() / full for bar in truth] == pytest.approx([1, 0, 1])
    np.testing.assert_allclose([bar.get_height() / full for bar in first], scores)
    assert [bar.get_height() / full for bar in second] == pytest.approx([0, 1, 1])
    assert [bar.get_x() for bar in first] == [0, 2, 4]
    assert {bar.get_width() for bar in first} == {2}
    assert [bar.get_facecolor() for bar in first] == [
        to_rgba(COLOURS[0], 0.3),
        to_rgba(COLOURS[0]),
        to_rgba(COLOURS[0]),
    ]
    assert figure.axes[0].get_xlim() == (0, 6)
    # what is decided is outlined, where the height does not show it
    (outlines,) = [one for one in figure.axes[0].collections if isinstance(one, PolyCollection)]
    assert [path.get_extents().x0 for path in outlines.get_paths()] == [2, 4]
    # annotation above, runs below it in their order
    assert truth[0].get_y() > first[0].get_y() > second[0].get_y()


def test_an_empty_clip_says_so_and_lanes_left_out_are_counted():
    figure = draw_timelines(
        [ClipTimeline("worst", ()), ClipTimeline("best", (), left_out=2)], ["a"], rule="by accuracy"
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing annotated, nothing found"]
    assert figure.axes[1].get_title(loc="left") == "best (+2)"
    assert figure.axes[1].get_xlabel() == "time (s)\nby accuracy"


def test_the_highest_score_stands_behind_its_bar():
    lane = EventLane("Bark", np.array([True]), (np.array([True]),) * 2, (np.array([0.256]), None))
    figure = draw_timelines([ClipTimeline("best", (lane,))], ["a", "b"], numbers=True)
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["0.26"]
