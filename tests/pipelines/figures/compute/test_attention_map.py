"""Attention over a frame: the stock module's weights, on the grid."""

import numpy as np
import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.figures.compute.attention_map import (
    attending_distillers,
    frame_attention,
    on_grid,
    run_attention,
)
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent


def test_weights_are_the_stock_modules_on_the_first_frame(trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "lcd", store=tiny_ave)
    rows, layers = run_attention(RunGroup([trained], "test", None, Silent()), 0)
    assert layers == ("s1b01", "s2b02")
    assert [row.picture for row in rows] == [None, None, None]
    for row in rows:
        assert [one.shape for one in row.maps] == [(3, 3), (2, 2)]
        assert [one.sum() for one in row.maps] == pytest.approx([1, 1])
    distiller = trained.run.model.visual.distillers["s2b02"].double()
    tokens = tiny_ave.read([rows[1].title]).layers["visual/s2b02"]
    keys = distiller.norm_tokens(tokens.floats(torch.float64)[0, :1])
    asking = distiller.norm_meta_tokens(distiller.meta_tokens)[None]
    _, expected = distiller.attention(asking, keys, keys)
    assert expected.shape == (1, 2, 4)
    np.testing.assert_allclose(frame_attention(distiller, tokens[0][:1]), expected[0].mean(0).view(2, 2).detach())
    np.testing.assert_allclose(rows[1].maps[1], expected[0].mean(0).view(2, 2).detach(), atol=1e-5)


def test_class_tokens_have_no_place_on_the_grid():
    layer = LayerSpec(modality="visual", stage=1, block=1, grid=(2, 3), tokens=7, width=8)
    np.testing.assert_array_equal(on_grid(np.arange(7.0), layer), [[1, 2, 3], [4, 5, 6]])


def test_a_head_without_attention_has_no_maps(linear_run, tiny_ave):
    trained = TrainedRun.load(linear_run, "linear", store=tiny_ave)
    assert attending_distillers(trained) == []
    with pytest.raises(UsageError, match="linear: no visual layer is distilled by attention"):
        run_attention(RunGroup([trained], "test", None, Silent()), 0)
