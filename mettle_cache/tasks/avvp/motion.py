"""LLP's R(2+1)D features, which a store may hold beside its samples, as an input of a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mettle_cache.decoders.mmil import MOTION_WIDTH
from mettle_cache.errors import UsageError

COLUMN = "motion"
_STORED = np.dtype("<f2")
_HINT = (
    "put LLP's feats/r2plus1d_18 into LLP_dataset of the data set's folder and extract a new store, "
    "or train without them: --set head.motion=false"
)


class MotionFeatures:
    """Half-precision values ``[T, 512]`` of every sample, read a batch at a time.

    Raises
    ------
    UsageError
        The samples have no such column, some have no features, or features of another size.
    """

    def __init__(self, samples: pa.Table, segments: int) -> None:
        self.shape = (segments, MOTION_WIDTH)
        if not samples.num_rows:  # an exported head is built without a store
            samples = pa.table({"clip": pa.array([], pa.string()), COLUMN: pa.array([], pa.binary())})
        if COLUMN not in samples.column_names:
            raise UsageError("the store holds no R(2+1)D features, which this head reads", hint=_HINT)
        self._values = samples[COLUMN]
        missing = samples.filter(self._values.is_null())["clip"].to_pylist()
        if missing:
            listed = f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            raise UsageError(f"the store holds no R(2+1)D features of {len(missing)} clips: {listed}", hint=_HINT)
        size = segments * MOTION_WIDTH * _STORED.itemsize
        if set(pc.unique(pc.binary_length(self._values)).to_pylist()) - {size}:
            raise UsageError(f"the store's R(2+1)D features are not all of shape {self.shape}", hint=_HINT)

    def read(self, rows: Sequence[int]) -> Tensor:
        """``[B, T, 512]`` floats of samples by position."""
        packed = b"".join(self._values.take(pa.array(rows, pa.int64())).to_pylist())
        values = np.frombuffer(packed, _STORED).astype(np.float32)
        return torch.from_numpy(values.reshape(len(rows), *self.shape))
