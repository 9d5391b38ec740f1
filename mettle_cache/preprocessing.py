"""What the published code of a data set does in its own way around the same frozen backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARED = "shared"
"""An audio backbone of this name is the visual one, reading sound as a picture."""

SHARED_MEAN = "shared=mean"
"""The same, but hearing the mean of a file's channels at the backbone's rate, whatever the published code hears."""


@dataclass(frozen=True)
class Recording:
    """Sound as its file has it: float32 ``samples [n]`` of one channel, ``rate`` of them a second."""

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True, kw_only=True)
class FbankPreprocessing:
    """The shared mode's log-mel: T windows, a frame every ``frame_shift_ms``, normalised to ``(x - mean) / 2 std``."""

    window_seconds: float
    frame_shift_ms: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """AVE's ways are the defaults (docs/protocols/avel.md).

    Attributes
    ----------
    final_norm
        The last block's tokens are taken after the backbone's final norm, where it has one.
    seconds_repeated
        HTS-AT hears each second that many times over.
    spread_seconds
        Of a recording longer than T seconds HTS-AT hears T, evenly spaced like the pictures; False: the first T.
    fbank
        None: the backbone's own picture of sound.
    file_sound
        The shared mode hears the first channel of a sound file at the file's own rate, as LAVISH does; False: the mean
        of its channels at 16 kHz. Both are the same for mono files of 16 kHz.
    """

    final_norm: bool = False
    seconds_repeated: int = 10
    spread_seconds: bool = False
    fbank: FbankPreprocessing | None = None
    file_sound: bool = False


DEFAULT_PREPROCESSING = Preprocessing()
