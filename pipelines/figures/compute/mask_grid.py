"""Columns of a mask grid, from predictions of segmentation heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mettle_cache.errors import UsageError
from mettle_cache.metrics.avs import frame_iou
from mettle_cache.pipelines.figures.mask_grid import MaskColumn
from mettle_cache.pipelines.figures.trained import RunGroup

EXAMPLES = 5


def group_mask_columns(group: RunGroup, runs: int) -> list[MaskColumn]:
    """The first frame of five videos, from the first run's best to its worst, evenly over the ranks.

    ``runs`` says of how many runs predictions are shown.

    Raises
    ------
    UsageError
        The task predicts no masks.
    """
    masks = [group.predictions(number).get("masks") for number in range(runs)]
    if any(packed is None for packed in masks):
        raise UsageError("the task predicts no masks")
    samples = group.store.samples
    columns = []
    for place in group.examples(EXAMPLES):
        row = group.split.rows[place]
        truth = group.task.targets([row])[0, 0].numpy().astype(np.bool_)
        predicted = tuple(unpack_mask(packed[place, 0], truth.shape) for packed in masks if packed is not None)
        columns.append(
            MaskColumn(
                title=str(samples["clip"][row].as_py()),
                picture=group.frames(samples["clips"][row].as_py()[0]),
                truth=truth,
                predicted=predicted,
                ious=tuple(100 * float(frame_iou(mask[None, None], truth[None, None])[0, 0]) for mask in predicted),
            )
        )
    return columns


def unpack_mask(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask ``[h, w]`` of its packed bits."""
    return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(np.bool_)
