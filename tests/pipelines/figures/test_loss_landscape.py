"""Landscapes share one scale, and their numbers are counted right."""

import numpy as np
from matplotlib.colors import LogNorm

from mettle_cache.pipelines.figures.loss_landscape import LossLandscape, draw_loss_landscapes

STEPS = np.linspace(-1, 1, 7)


def landscape(losses, label="a"):
    return LossLandscape(label=label, steps=STEPS, losses=losses)


def test_minima_are_points_below_all_their_neighbours():
    losses = np.full((7, 7), 5.0)
    assert landscape(losses).local_minima == 0
    losses[2, 2], losses[4, 5], losses[0, 3] = 1, 2, 0  # the last one lies on the rim
    assert landscape(losses).local_minima == 2
    losses[3, 3] = 0.5  # beside the first, and below it
    assert landscape(losses).local_minima == 2
    assert landscape(losses).centre == 0.5
    losses[4, 6] = np.nan  # what is unknown makes none
    assert landscape(losses).local_minima == 1


def test_maps_have_one_scale_and_titles_their_numbers():
    small, large = np.full((7, 7), 2.0), np.full((7, 7), 9.0)
    small[3, 3] = 1
    figure = draw_loss_landscapes([landscape(small), landscape(large, "b")])
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert [(image.norm.vmin, image.norm.vmax) for image in images] == [(1, 9), (1, 9)]
    assert figure.axes[0].get_title() == "a\ncentre 1, 1 local minimum"
    assert figure.axes[1].get_title() == "b\ncentre 9, 0 local minima"


def test_losses_over_decades_are_on_a_logarithmic_scale():
    figure = draw_loss_landscapes([landscape(np.geomspace(0.1, 100, 49).reshape(7, 7))])
    assert isinstance(figure.axes[0].images[0].norm, LogNorm)
    bar = figure.axes[-1]
    np.testing.assert_allclose(bar.get_xticks(), [0.1, 1, 10, 100])
