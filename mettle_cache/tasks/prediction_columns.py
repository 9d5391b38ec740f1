"""Columns of prediction tables that several tasks have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike


def score_lists(scores: ArrayLike) -> pa.ListArray:
    """Scores ``[..., C]`` as one list of C float32 for each row of a table, in the order of their leading axes."""
    values = np.asarray(scores, np.float32)
    classes = values.shape[-1]
    offsets = np.arange(0, values.size + 1, classes, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values.reshape(-1))
