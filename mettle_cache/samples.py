"""Which clips a sample is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

CLIP = "clip"
CLIPS_COLUMN = "clips"
SPLIT, TRAINING = "split", "train"


def clips_of_samples(samples: pa.Table) -> list[tuple[str, ...]]:
    """The clip ids of each sample, in time order.

    Most data sets have one clip a sample, in column ``clip``. Where every frame is a clip of its own, because not all
    frames of a video are stored, column ``clips`` lists them and ``clip`` is the video's name.
    """
    if CLIPS_COLUMN in samples.column_names:
        return [tuple(clips) for clips in samples[CLIPS_COLUMN].to_pylist()]
    return [(clip,) for clip in samples[CLIP].to_pylist()]


def training_clips(clips: Sequence[str], samples: pa.Table) -> list[int]:
    """The places of the clips of training samples, in clip order; of all clips where there is no such sample."""
    splits = samples[SPLIT].to_pylist() if SPLIT in samples.column_names else []
    members = {
        clip
        for split, of_sample in zip(splits, clips_of_samples(samples), strict=False)
        if split == TRAINING
        for clip in of_sample
    }
    return [place for place, clip in enumerate(clips) if clip in members or not members]
