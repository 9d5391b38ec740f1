"""The head of video parsing: its options, and LLP's R(2+1)D features, which a store may hold for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import Tensor

from mettle_cache.decoders.han import HANOptions
from mettle_cache.decoders.mgn import MGNOptions
from mettle_cache.decoders.mmil import DEFAULT_SMOOTHING, MOTION_WIDTH
from mettle_cache.decoders.mmpyr import MMPyrOptions
from mettle_cache.decoders.registry import decoder_problems
from mettle_cache.errors import UsageError
from mettle_cache.tasks.input_layers import InputLayerOptions

Amount = Annotated[float, Field(ge=0, le=1)]

COLUMN = "motion"
_STORED = np.dtype("<f2")
_HINT = (
    "put LLP's feats/r2plus1d_18 into LLP_dataset of the data set's folder and extract a new store, "
    "or train without them: --set head.motion=false"
)


@dataclass(frozen=True, kw_only=True)
class ParsingHeadOptions(InputLayerOptions):
    """The ``[head]`` table.

    ``decoder`` is one that is registered for this task; ``mmpyr``, ``han`` and ``mgn`` have a table of their own.

    ``motion`` adds the R(2+1)D features (visual_st in the published code): ``auto`` for ``mgn`` only. The targets of a
    modality move by ``smoothing_...`` towards a half. ``video_mask`` lets a segment have only the categories that the
    video as a whole is given. Further keys are those of the decoder's input layers.
    """

    decoder: str = "mmpyr"
    motion: bool | Literal["auto"] = "auto"
    smoothing_audio: Amount = DEFAULT_SMOOTHING.audio
    smoothing_visual: Amount = DEFAULT_SMOOTHING.visual
    video_mask: bool = True
    mmpyr: MMPyrOptions = field(default_factory=MMPyrOptions)
    han: HANOptions = field(default_factory=HANOptions)
    mgn: MGNOptions = field(default_factory=MGNOptions)

    def problems(self) -> Sequence[str]:
        return decoder_problems(self.decoder, "avvp")

    @property
    def reads_motion(self) -> bool:
        return self.decoder == "mgn" if self.motion == "auto" else self.motion


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
