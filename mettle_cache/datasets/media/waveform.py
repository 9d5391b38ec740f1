"""Recordings to mono float32 at the rate a backbone wants: .npy, and whatever libsndfile or FFmpeg reads."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError, require_file

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

NPY_RATE = 32_000
"""Hz of every .npy recording, by the definition of the layout (docs/protocols/avel.md, "Media on disk")."""

MAX_FILTER_BANK = 8_000_000
"""Product of two rates without their common factor (44.1 and 32 kHz: 141,120); the resampler's memory grows with it."""

MAX_SAMPLES = 64_000_000
"""Samples of all channels of one recording; more is refused before memory is taken for them."""

# librosa's "kaiser_best": less than 0.0002 dB of ripple up to 0.94 of the band, and milliseconds a clip
_RESAMPLER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}

POLICY: dict[str, object] = {
    "channels": "mean",
    "npy": f"{NPY_RATE} Hz mono by definition",
    "resample": {"library": "torchaudio.functional.resample", **_RESAMPLER},
}


# what numpy raises for headers that are not its own: it parses them as Python literals
_BAD_HEADER = (OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError, TokenError)


def decoder_versions() -> dict[str, object]:
    """The library whose version can change a sample that libsndfile decodes."""
    return {"libsndfile": soundfile.__libsndfile_version__}


def read_npy(path: Path, segments: int) -> tuple[NDArray[np.float32], int]:
    """Samples ``[n]`` and their rate from an array of floats.

    Any shape that holds ``segments`` seconds at 32 kHz serves, as ``view`` did for the peers. Another length serves
    when it is one row and within a second of that: an array cannot say its rate, and 160,000 samples are far more
    likely ten seconds at 16 kHz than five at 32.

    Raises
    ------
    MediaFileError
        Not an array of floats (a pickle is never loaded), or another length.
    """
    stored = open_npy(path, segments)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which require_finite refuses
        samples = np.array(stored, dtype=np.float32, order="C").reshape(-1)
    return samples, NPY_RATE


def open_npy(path: Path, segments: int) -> NDArray[np.floating]:
    """The array as a memory map, its header checked against the file's size and against the layout."""
    require_file(path)
    try:
        # a memory map is checked against the file's size, so a header that promises a terabyte takes no memory
        stored = np.lib.format.open_memmap(path, mode="r")
    except _BAD_HEADER as error:
        raise MediaFileError(path, "is not a plain .npy array of floats (pickles are not loaded)") from error
    if stored.dtype.kind != "f":
        raise MediaFileError(path, f"holds {stored.dtype}, not floats")
    exact = segments * NPY_RATE
    one_row = stored.ndim > 0 and max(stored.shape) == stored.size
    if stored.size != exact and not (one_row and abs(stored.size - exact) <= NPY_RATE):
        raise MediaFileError(
            path,
            f"holds {stored.size} values of shape {stored.shape}, not {segments} s of mono at {NPY_RATE} Hz ({exact})",
            hint="give recordings of another rate or length as .wav, which says its rate",
        )
    return stored


def read_sound_file(path: Path) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` and their rate from a .wav, .flac or .ogg file. Raises MediaFileError."""
    check_sound_file(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            channels, rate, promised = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except soundfile.LibsndfileError as error:
        raise MediaFileError(path, f"cannot be decoded: {error.error_string}") from error
    if len(channels) < promised:
        raise MediaFileError(path, f"is cut off: {len(channels)} of {promised} samples could be read")
    return mix_down(channels.T), rate


def check_sound_file(path: Path) -> None:
    """Read the header. Raises MediaFileError for what is not sound, is empty, is cut off or is far too long."""
    size = require_file(path).st_size
    _refuse_short_riff(path, size)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise MediaFileError(path, f"cannot be decoded: {error.error_string}") from error
    if info.frames <= 0:
        raise MediaFileError(path, "holds no samples")
    if info.frames * info.channels > MAX_SAMPLES:
        raise MediaFileError(path, f"holds {info.frames} samples in {info.channels} channels: more than {MAX_SAMPLES}")


def mix_down(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[channels, n]`` to their mean ``[n]``; one channel stays as it is."""
    if len(channels) == 1:
        return np.ascontiguousarray(channels[0])
    with np.errstate(over="ignore", invalid="ignore"):  # for require_finite to refuse
        return np.ascontiguousarray(channels.mean(axis=0, dtype=np.float32))


def resample(path: Path, samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Samples ``[n]`` at ``rate`` Hz to ``[ceil(n * target / rate)]`` at ``target`` Hz; equal rates change nothing.

    Raises
    ------
    MediaFileError
        A rate so odd that the filter bank or the result would take gigabytes; ``path`` is named.
    """
    if rate == target:
        return samples
    common = gcd(rate, target)
    if (rate // common) * (target // common) > MAX_FILTER_BANK or len(samples) * target > MAX_SAMPLES * rate:
        raise MediaFileError(path, f"has a rate of {rate} Hz, which cannot be brought to {target} Hz")
    import torch

    with torch.inference_mode():
        resampled = _resampler(rate, target)(torch.from_numpy(samples))
    return np.ascontiguousarray(resampled.numpy())


def require_finite(path: Path, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """``samples`` themselves. Raises MediaFileError when one is infinite or not a number."""
    if not np.isfinite(samples).all():
        raise MediaFileError(path, "holds samples that are not finite numbers")
    return samples


@lru_cache(maxsize=8)
def _resampler(rate: int, target: int) -> Resample:
    """The filter bank of a pair of rates, computed once; applying it changes nothing in it."""
    from torchaudio.transforms import Resample

    return Resample(rate, target, **_RESAMPLER)


def _refuse_short_riff(path: Path, size: int) -> None:
    """libsndfile reads a cut-off .wav as a shorter one; its RIFF header tells (0 and 2**32-1: written to a pipe)."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    promised = int.from_bytes(head[4:8], "little")
    if promised not in (0, 2**32 - 1) and promised + 8 > size + 1:  # some writers count a pad byte they left out
        raise MediaFileError(path, f"is cut off: its header promises {promised + 8} bytes, {size} are there")
