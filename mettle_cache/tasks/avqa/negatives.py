"""Pictures that do not belong to a sound: each from another video than its own (spec-avqa.md 5).

Shapes: B samples, T seconds; V videos of the split. A video is a number, the same for all its questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mettle_cache.errors import UsageError
from mettle_cache.tasks.protocol import StepInputs

Numbers = NDArray[np.int64]


def draw_negatives(
    own: Numbers, videos: Numbers, *, segments: int, at_most: int | None, rng: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """A video and a second of it, both ``[B, T]``, for every second of the videos ``own [B]``.

    Each is uniform over all other ``videos`` and then over the T seconds. ``at_most`` bounds the videos of a step, and
    so what it reads: that many are drawn uniformly and without replacement, then each second draws from them. By
    symmetry no other video is likelier than another for any second; but the seconds of a step share the few videos.

    Raises
    ------
    UsageError
        There is no other video.
    """
    if len(videos) < 2:
        raise UsageError(
            f"negatives come from other videos, and the split has {len(videos)}",
            hint="extract more videos of it",
        )
    few = videos if at_most is None or at_most >= len(videos) else rng.choice(videos, at_most, replace=False)
    # the place of a sample's own video among the few, or past their end
    place = np.where((few == own[:, None]).any(1), (few == own[:, None]).argmax(1), len(few))[:, None]
    drawn = rng.integers(0, len(few) - (place < len(few)), size=(len(own), segments))
    return few[drawn + (drawn >= place)], rng.integers(0, segments, size=(len(own), segments))


def negative_inputs(
    video_of: Numbers,
    rows: Sequence[int],
    pool: Sequence[int],
    *,
    segments: int,
    at_most: int | None,
    rng: np.random.Generator,
) -> StepInputs:
    """What a step is given to find its negatives: ``negative_clip`` and ``negative_second``, ``[B, T]`` each.

    ``video_of`` is the video of every sample; ``negative_clip`` counts along the leading axis of the step's tokens.
    Videos that the step reads anyway are not read again.
    """
    own = video_of[np.asarray(rows, dtype=np.int64)]
    videos, first = np.unique(video_of[np.asarray(pool, dtype=np.int64)], return_index=True)
    drawn, seconds = draw_negatives(own, videos, segments=segments, at_most=at_most, rng=rng)
    place = {int(video): position for position, video in reversed(list(enumerate(own)))}
    extra = [int(video) for video in np.unique(drawn) if int(video) not in place]
    place |= {video: len(own) + number for number, video in enumerate(extra)}
    clips = np.vectorize(place.__getitem__, otypes=[np.int64])(drawn)
    return StepInputs(
        rows=tuple(pool[first[np.searchsorted(videos, video)]] for video in extra),
        tensors={"negative_clip": torch.from_numpy(clips), "negative_second": torch.from_numpy(seconds)},
    )
