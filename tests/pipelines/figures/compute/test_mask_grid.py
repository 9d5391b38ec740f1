"""Columns of masks, from the heads' predictions."""

import numpy as np
import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.figures.compute.mask_grid import group_mask_columns, unpack_mask
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent


def test_bits_become_masks():
    mask = np.random.default_rng(0).random((5, 7)) > 0.5
    np.testing.assert_array_equal(unpack_mask(np.packbits(mask), mask.shape), mask)


def test_a_head_without_masks_is_refused(trained_run, tiny_ave):
    group = RunGroup([TrainedRun.load(trained_run, "lcd", store=tiny_ave)], "test", None, Silent())
    with pytest.raises(UsageError, match="the task predicts no masks"):
        group_mask_columns(group, 1)
