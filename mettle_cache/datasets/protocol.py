"""What every data set looks like to the rest of the house, whatever its files look like on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.datasets.textfile import escaped
from mettle_cache.errors import UsageError
from mettle_cache.preprocessing import DEFAULT_PREPROCESSING, Preprocessing, Recording

SAMPLE_COLUMNS = (pa.field("row", pa.int64()), pa.field("clip", pa.string()), pa.field("split", pa.string()))
"""The first columns of every ``Dataset.samples``: the 0-based annotation row, the clip's id and its split. What a data
set adds, its task reads: categories, events, questions, masks."""


@dataclass(frozen=True)
class Clip:
    """The media of one id.

    ``frames`` is a folder of numbered pictures or a video file, ``audio`` a recording or the same video file. They say
    where the files are or, when ``problems()`` lists them as missing, where they were expected. ``segment`` is the one
    segment of those media that the clip consists of, from 0; None: all of them.
    """

    id: str
    frames: Path
    audio: Path
    segment: int | None = None


@dataclass(frozen=True)
class PictureRule:
    """Which pictures of a clip's folder stand for its segments (:mod:`mettle_cache.datasets.media.pictures`).

    Pictures are spread evenly over the segments. A layout with a ``rate`` counts them by the second instead: one a
    second, or ``rate`` of them. ``longer``: clips last longer than their segments, so that any number of pictures is
    to be expected.
    """

    rate: int | None = None
    longer: bool = False


SPREAD = PictureRule()


@dataclass(frozen=True)
class MediaProblem:
    """Something about one clip's files that keeps it from being decoded."""

    clip: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{escaped(self.clip)}: {escaped(self.path)}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class DatasetOption:
    """A choice that a data set leaves to its user: ``--option NAME=VALUE``; its opener takes it by its name, as text.

    One of ``choices``, or a whole number from the first of ``whole_numbers`` to the second.
    """

    name: str
    choices: tuple[str, ...] = ()
    default: str
    help: str
    whole_numbers: tuple[int, int] | None = None

    @property
    def values(self) -> str:
        """What may be chosen: ``1|5`` or ``1..600``."""
        return "|".join(self.choices) if self.whole_numbers is None else "{}..{}".format(*self.whole_numbers)

    def accept(self, value: str) -> str:
        """``value`` as it is written everywhere: in the store's key, for one.

        Raises
        ------
        UsageError
            It may not be chosen.
        """
        if self.whole_numbers is None:
            if value in self.choices:
                return value
            raise UsageError(f"option {self.name}={value}: must be one of {', '.join(self.choices)}")
        least, most = self.whole_numbers
        # int() alone would take signs, underscores, blanks and the digits of every script
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if digits and least <= int(value) <= most:
            return str(int(value))
        raise UsageError(f"option {self.name}={value}: must be a whole number from {least} to {most}")


@dataclass(frozen=True)
class DatasetInfo:
    """What stands behind a data set's row in the registry, and what ``mettle datasets`` shows of it.

    ``open`` reads the annotations: it is called with the root, a folder that exists, and every option by its name, as
    text. It raises DatasetError. ``preprocessing`` is what the published code does in its own way around the backbones;
    ``options`` are what else can be chosen. ``many`` says that users have several data sets of this kind, which their
    folders' names tell apart. ``picture_rule`` chooses among a clip's pictures; ``media_segments`` are the seconds of
    the media that a clip is one of, where it is not all of them.
    """

    name: str
    title: str
    segments: int
    default_root: Path
    layouts: tuple[str, ...]
    open: Callable[..., Dataset]
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING
    options: tuple[DatasetOption, ...] = ()
    many: bool = False
    picture_rule: PictureRule = SPREAD
    media_segments: int | None = None


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
    def media_segments(self) -> int:
        """The segments of a clip's media: T, or more where a clip is one of them."""
        ...

    @property
    def clips(self) -> tuple[Clip, ...]:
        """One per media id that the samples need, in order of first appearance in the annotations."""
        ...

    @property
    def samples(self) -> pa.Table:
        """Annotation rows in file order; the first columns are ``SAMPLE_COLUMNS``."""
        ...

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        """Lists of names in canonical order, the index of a name being its class: ``{"categories": [...]}``."""
        ...

    @property
    def decode_policy(self) -> dict[str, object]:
        """Everything about decoding that changes bytes, as JSON; the same wherever the root lies."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a user should read before the work starts, though nothing is wrong.

        After ``problems()`` also what that showed.
        """
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

    def source_files(self, clip: Clip) -> tuple[Path, ...]:
        """The files that decoding uses, each once; some may be missing. Raises MediaError where it cannot be told."""
        ...

    def source_digest(self, clip: Clip) -> str:
        """BLAKE2b of the content of the files that decoding uses, 32 hex characters. Raises MediaError."""
        ...


@runtime_checkable
class HasSoundFiles(Protocol):
    """A data set whose sound files can be heard as they are (``Preprocessing.file_sound``)."""

    def preferring_sound_files(self) -> Dataset:
        """The same clips, each with a sound file wherever it has one, though it might have an array, too."""
        ...

    def load_recording(self, clip: Clip, sample_rate: int) -> Recording:
        """The first channel of a sound file at its own rate; of other media what ``load_waveform`` gives.

        Raises MediaError.
        """
        ...
