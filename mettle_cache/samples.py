"""Which clips a sample is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

CLIP = "clip"
CLIPS_COLUMN = "clips"


def clips_of_samples(samples: pa.Table) -> list[tuple[str, ...]]:
    """The clip ids of each sample, in time order.

    Most data sets have one clip a sample, in column ``clip``. Where every frame is a clip of its own, because not all
    frames of a video are stored, column ``clips`` lists them and ``clip`` is the video's name.
    """
    if CLIPS_COLUMN in samples.column_names:
        return [tuple(clips) for clips in samples[CLIPS_COLUMN].to_pylist()]
    return [(clip,) for clip in samples[CLIP].to_pylist()]
