"""Masks are coloured by agreement, and the row of frames is there where a frame is."""

import numpy as np
from matplotlib.colors import to_rgb

from mettle_cache.pipelines.figures.mask_grid import MaskColumn, draw_mask_grid
from mettle_cache.pipelines.figures.style import BLUE, ORANGE

TRUTH = np.array([[True, True], [False, False]])
PREDICTED = np.array([[True, False], [True, False]])


def column(picture=None):
    return MaskColumn(title="clip", picture=picture, truth=TRUTH, predicted=(PREDICTED,), ious=(100 / 3,))


def test_colours_tell_hits_misses_and_excess():
    truth, predicted = draw_mask_grid([column()], ["lcd"]).axes
    np.testing.assert_array_equal(truth.images[0].get_array(), 255 * np.repeat(TRUTH[..., None], 3, -1))
    expected = [[(1, 1, 1), to_rgb(BLUE)], [to_rgb(ORANGE), (0, 0, 0)]]
    np.testing.assert_allclose(predicted.images[0].get_array() / 255, expected, atol=1 / 255)
    assert (predicted.get_xlabel(), predicted.get_ylabel()) == ("IoU 33 %", "lcd")


def test_frames_are_shown_where_there_is_one():
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    figure = draw_mask_grid([column(), column(picture)], ["lcd"])
    assert len(figure.axes) == 6
    assert figure.axes[0].get_ylabel() == "frame"
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), picture)
