"""Weights are shown as multiples of an even share, on one scale."""

import numpy as np

from mettle_cache.pipelines.figures.attention_map import AttentionRow, draw_attention_maps


def test_grids_of_different_sizes_compare():
    even, peaked = np.full((2, 2), 0.25), np.zeros((4, 4))
    peaked[0, 0] = 1
    picture = np.zeros((5, 5, 3), np.uint8)
    rows = [AttentionRow(title="a", picture=None, maps=(even, peaked))]
    figure = draw_attention_maps(rows, ("s1", "s2"))
    first, second = (axis.images[-1] for axis in figure.axes[:2])
    np.testing.assert_array_equal(first.get_array(), np.ones((2, 2)))
    assert second.get_array().max() == 16
    assert first.get_clim() == second.get_clim()
    with_picture = draw_attention_maps([AttentionRow(title="a", picture=picture, maps=(even, peaked))], ("s1", "s2"))
    assert [len(axis.images) for axis in with_picture.axes[:3]] == [1, 2, 2]
    assert with_picture.axes[1].images[-1].get_alpha() < 1
