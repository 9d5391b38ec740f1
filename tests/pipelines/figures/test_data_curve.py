import numpy as np
import pytest

from mettle_cache.pipelines.figures.data_curve import DataCurve, draw_data_curves


def test_points_and_intervals_are_where_they_were_measured():
    clips, score = np.array([10, 100, 105]), np.array([50.0, 60.0, 61.0])
    one = DataCurve(label="a", clips=clips, score=score, low=score - [1, 2, 3], high=score + 4)
    figure = draw_data_curves([one], score_label="accuracy (%)", interval="95 %", floor=30.0)
    axis = figure.axes[0]
    line, *_ = axis.containers[0]
    assert line.get_xydata() == pytest.approx(np.stack([clips, score], 1))
    bars = np.array([segment[:, 1] for segment in axis.collections[0].get_segments()])
    assert bars == pytest.approx(np.array([[49, 54], [58, 64], [58, 65]]))
    assert axis.get_xscale() == "log"
    # 105 is too near to 100 for a label of its own
    assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "100"]
    assert axis.get_ylabel() == "accuracy (%)\nbars: 95 %"


def test_lines_of_several_methods_stand_apart():
    clips, score = np.array([10, 100]), np.array([50.0, 60.0])
    curves = [DataCurve(label=name, clips=clips, score=score, low=score, high=score) for name in "abc"]
    axis = draw_data_curves(curves, score_label="accuracy (%)", interval="none").axes[0]
    places = [container[0].get_xdata()[0] for container in axis.containers]
    assert places[0] < places[1] < places[2]
    assert places[1] == pytest.approx(10)
