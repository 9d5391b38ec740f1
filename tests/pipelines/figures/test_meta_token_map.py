"""Marks of maps: one for each of the most frequent classes, and none for what has no class."""

import numpy as np

from mettle_cache.pipelines.figures.meta_token_map import MOST_CLASSES, SegmentMap, draw_meta_token_maps
from mettle_cache.pipelines.figures.style import COLOURS


def segment_map(classes):
    classes = np.asarray(classes)
    points = np.stack([np.arange(len(classes)), classes], axis=1).astype(float)
    return SegmentMap(title="visual: k1", points=points, classes=classes, silhouette=0.123)


def test_classes_have_marks_and_the_background_is_pale():
    figure = draw_meta_token_maps([segment_map([2, 0, -1, 2])], ["x", "y", "z"], perplexity=5)
    background, others, *marked = figure.axes[0].collections
    np.testing.assert_array_equal(background.get_offsets(), [[2, -1]])
    assert len(others.get_offsets()) == 0
    assert [one.get_offsets()[:, 1].tolist() for one in marked] == [[0], [2, 2]]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["x", "z", "background"]
    assert figure.axes[0].get_title() == "visual: k1\nsilhouette 0.12"


def test_more_classes_than_marks_share_one():
    classes = np.repeat(np.arange(MOST_CLASSES + 2), 3)
    classes[:1] = 1  # class 0 is the rarest then
    figure = draw_meta_token_maps([segment_map(classes)], [f"c{n}" for n in range(40)], perplexity=5)
    _, others, *marked = figure.axes[0].collections
    assert len(marked) == MOST_CLASSES
    assert len({(one.get_facecolor()[0].tobytes(), one.get_paths()[0].vertices.tobytes()) for one in marked}) == len(
        marked
    )
    assert {int(number) for number in others.get_offsets()[:, 1]} == {0, MOST_CLASSES + 1}
    assert figure.legends[0].get_texts()[-1].get_text() == "other classes"
    assert len(COLOURS) == 7
