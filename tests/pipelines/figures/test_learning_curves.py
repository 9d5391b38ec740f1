import numpy as np

from mettle_cache.pipelines.figures.learning_curves import LearningCurve, draw_learning_curves


def curve(score, best=2):
    return LearningCurve(label="a", loss=np.array([3.0, 2.0, 1.0]), score=np.array(score), best=best)


def test_lines_are_the_epochs_and_the_dot_the_selected_one():
    loss, score = draw_learning_curves([curve([10.0, 30.0, 20.0])], score_label="val accuracy (%)").axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert score.lines[0].get_xydata().tolist() == [[1, 10], [2, 30], [3, 20]]
    assert score.collections[0].get_offsets().tolist() == [[2, 30]]
    assert score.get_ylabel() == "val accuracy (%)"


def test_without_scores_the_loss_stands_alone():
    figure = draw_learning_curves([curve([np.nan] * 3, best=3)], score_label="val accuracy (%)")
    assert [axis.get_ylabel() for axis in figure.axes] == ["train loss (mean)"]
