import numpy as np

from mettle_cache.pipelines.figures.cosine_map import CosineMap, draw_cosine_maps


def test_maps_share_a_scale_up_to_one_and_every_nth_layer_is_named():
    names = tuple(f"s3b{block:02d}" for block in range(20))
    maps = [
        CosineMap(title=name, names=names, cosines=np.full((20, 20), value))
        for name, value in (("a", -0.5), ("b", 0.5))
    ]
    figure = draw_cosine_maps(maps)
    assert [axis.images[0].get_clim() for axis in figure.axes[:2]] == [(-0.5, 1), (-0.5, 1)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(names[::3])
