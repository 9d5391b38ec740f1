"""What every data set looks like to the rest of the house, whatever its files look like on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SAMPLE_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("clip", pa.string()),
        ("split", pa.string()),
        ("category", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
"""Columns of ``Dataset.samples``: the 0-based annotation row, the clip's id, its split and category, and the event as
whole seconds ``[start, end)``."""


@dataclass(frozen=True)
class Clip:
    """The media of one id.

    ``frames`` is a folder of numbered pictures or a video file, ``audio`` a recording or the same video file. They say
    where the files are or, when ``problems()`` lists them as missing, where they were expected.
    """

    id: str
    frames: Path
    audio: Path


@dataclass(frozen=True)
class MediaProblem:
    """Something about one clip's files that keeps it from being decoded."""

    clip: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.clip}: {self.path}: {self.what}"


@dataclass(frozen=True)
class DatasetInfo:
    """A registry entry as ``mettle datasets`` shows it."""

    name: str
    title: str
    segments: int
    default_root: Path
    layouts: tuple[str, ...]


class Dataset(Protocol):
    """What users have on disk, as clips to decode and samples to learn from.

    A sample is an annotation row, a clip is the media behind an id; several rows may share a clip.
    Every method may be called from several threads at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> Path: ...

    @property
    def segments(self) -> int:
        """T, the number of one-second segments of a clip."""
        ...

    @property
    def clips(self) -> tuple[Clip, ...]:
        """One per media id that the samples need, in order of first appearance in the annotations."""
        ...

    @property
    def samples(self) -> pa.Table:
        """Annotation rows in file order, columns as in ``SAMPLE_SCHEMA``."""
        ...

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        """``{"categories": [...]}`` in canonical order: the index of a name is its class."""
        ...

    @property
    def decode_policy(self) -> dict[str, object]:
        """Everything about decoding that changes bytes, as JSON; the same wherever the root lies."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a user should read before the work starts, though nothing is wrong."""
        ...

    def problems(self, *, deep: bool = False) -> list[MediaProblem]:
        """Every missing, empty or misplaced file, in clip order; ``deep`` also opens each file and reads its header."""
        ...

    def load_frames(self, clip: Clip) -> list[NDArray[np.uint8]]:
        """T RGB pictures ``[H, W, 3]``, one a segment; H and W are the file's own. Raises MediaError."""
        ...

    def load_waveform(self, clip: Clip, sample_rate: int) -> NDArray[np.float32]:
        """Mono samples ``[n]`` at ``sample_rate`` Hz, neither trimmed nor padded. Raises MediaError."""
        ...

    def source_digest(self, clip: Clip) -> str:
        """BLAKE2b of the content of the files that decoding uses, 32 hex characters. Raises MediaError."""
        ...
