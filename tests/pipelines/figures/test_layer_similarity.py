import numpy as np

from mettle_cache.pipelines.figures.layer_similarity import LayerSimilarity, draw_layer_similarity


def test_lines_end_where_an_input_is_not_stored():
    mean = np.array([0.5, np.nan, 0.8, 0.9])
    one = LayerSimilarity(label="visual", layers=("a", "b", "c", "d"), mean=mean, low=mean - 0.9, high=mean)
    axis = draw_layer_similarity([one]).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), np.stack([[1, 2, 3, 4], mean], 1))
    # cosines may be negative
    assert axis.get_ylim()[0] < -0.4
