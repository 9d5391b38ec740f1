"""Sound files to mono float32 at the rate a backbone wants: whatever libsndfile reads, and what FFmpeg does besides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from mettle_cache.datasets.media import ffmpeg_sound
from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.caf import check_caf
from mettle_cache.datasets.media.fault import MediaFileError, read_head, require_file
from mettle_cache.datasets.media.ogg import check_ogg
from mettle_cache.datasets.media.riff import SLACK, check_riff

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

MAX_FILTER_BANK = 8_000_000
"""Product of two rates without their common factor (44.1 and 32 kHz: 141,120); the resampler's memory grows with it."""

MAX_SAMPLES = 64_000_000
"""Samples of all channels of one recording; more is refused before memory is taken for them."""

LOUDEST = 16.0
"""A peak that floats can have (24 dB over full scale: lossy decoders go a little over 1, mixes in float further)."""

# librosa's "kaiser_best": less than 0.0002 dB of ripple up to 0.94 of the band, and milliseconds a clip
_FILTER_WIDTH, _ROLLOFF = 64, 0.9475937167399596
_RESAMPLER = {
    "lowpass_filter_width": _FILTER_WIDTH,
    "rolloff": _ROLLOFF,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}

POLICY: dict[str, object] = {
    "channels": "mean",
    "npy": "32000 Hz by definition, mono or channels, floats or 16-bit integers",
    "resample": {"library": "torchaudio.functional.resample", **_RESAMPLER},
}
_RESAMPLED_AT_ONCE = 1 << 22
_PROMISED = re.compile(r": (\d+) \(should be (\d+)\)")
_COUNTED = re.compile(rb"\nsample_count -i (\d{1,18})")
_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")
"""Those of which a lost end is noticed, of some two dozen that libsndfile reads."""
_UNCOUNTED = {"FLAC": 0, "MP3": 5 * 1152}
"""Samples that a file may hold beyond those that its header tells, where libsndfile stops: an MP3 encoder's padding."""
_UNTOLD = 1 << 60
"""Frames that libsndfile claims of a file that does not tell how many it holds."""

Mix = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""``[channels, n]`` to ``[n]``."""


def decoder_versions() -> dict[str, object]:
    """The libraries whose version can change a sample of a sound file."""
    return {"libsndfile": soundfile.__libsndfile_version__, **ffmpeg_sound.decoder_versions()}


def read_sound_file(path: Path, mix: Mix | None = None) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` of a .wav, .flac, .ogg or .mp3 file, and their rate; ``mix`` None averages channels.

    Raises
    ------
    MediaFileError
        No sound, none that can be decoded, a part of it lost, or more than memory is allowed for.
    """
    with _opened(path) as file:
        if file is None:
            channels, rate = ffmpeg_sound.read_channels(path)
        else:
            channels, rate = _read_channels(path, file), file.samplerate
    if len(channels) > 1:
        take(path, 4 * channels.shape[1])
    return (mix or mix_down)(channels), rate


def check_sound_file(path: Path) -> None:
    """Read the header. Raises MediaFileError for what is not sound, is empty, is cut off or is far too long."""
    with _opened(path) as file:
        if file is None:
            ffmpeg_sound.check(path)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile | None]:
    """The file, known to be whole as far as that can be told; None for one that FFmpeg has to read."""
    size = require_file(path).st_size
    try:
        check_riff(path, size)
        check_caf(path, size)
        check_ogg(path)
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise MediaFileError(path, f"cannot be read: {error.strerror}") from error
    with raw:
        try:
            # without its name: libsndfile takes any bytes for sound where it ends in .au or .gsm
            file = soundfile.SoundFile(raw.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            try:
                ffmpeg_sound.check(path)
            except MediaFileError as other:
                what = (
                    other.what if "not recognised" in error.error_string else f"cannot be decoded: {error.error_string}"
                )
                raise MediaFileError(path, what) from error
            yield None
            return
        with file:
            _refuse_lost_end(path, file)
            # of MP3 inside WAV libsndfile finds a part
            partly = file.subtype == "MPEG_LAYER_III" and file.format != "MP3"
            yield file if 0 < file.frames < _UNTOLD and not partly else None


def _refuse_lost_end(path: Path, file: soundfile.SoundFile) -> None:
    """What of W64 and AU libsndfile's own log alone tells; a NIST header counts its samples."""
    if file.format not in _FORMATS:
        raise MediaFileError(
            path,
            f"is a sound file of a kind ({file.format}) that does not show whether its end was lost",
            hint="convert it to WAV or FLAC",
        )
    if file.format == "NIST":
        counted = max(map(int, _COUNTED.findall(read_head(path))), default=0)
        if counted > file.frames:
            raise MediaFileError(path, f"is cut off: its header promises {counted} samples, {file.frames} are there")
    elif file.format in ("W64", "AU"):
        for promised, held in _PROMISED.findall(file.extra_info):
            if int(promised) - int(held) > SLACK:
                raise MediaFileError(path, f"is cut off: its header promises {promised} bytes, {held} are there")


def _read_channels(path: Path, file: soundfile.SoundFile) -> NDArray[np.float32]:
    """All samples ``[channels, n]``."""
    take(path, 4 * file.frames * file.channels)
    try:
        # the number of frames is given because some codecs, such as GSM 6.10, cannot be asked what is left; and all are
        # read at once because soundfile seeks after each call, which MP3 does not do to the bit
        samples: NDArray[np.float32] = file.read(file.frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise MediaFileError(path, f"cannot be decoded: {getattr(error, 'error_string', error)}") from error
    slack = _UNCOUNTED.get(file.format)
    if slack is not None and (count := ffmpeg_sound.count_samples(path)) > file.frames + slack:
        raise MediaFileError(path, f"has a damaged header: it promises {file.frames} samples, {count} are there")
    if len(samples) < file.frames:
        raise MediaFileError(path, f"is cut off or damaged: {len(samples)} of {file.frames} samples could be read")
    return samples.T


def mix_down(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[channels, n]`` to their mean ``[n]``; one channel stays as it is."""
    if len(channels) == 1:
        return np.ascontiguousarray(channels[0])
    with np.errstate(over="ignore", invalid="ignore"):  # for require_finite to refuse
        return np.ascontiguousarray(channels.mean(axis=0, dtype=np.float32))


def first_channel(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[channels, n]`` to the first ``[n]``."""
    return np.ascontiguousarray(channels[0])


def bring_to(path: Path, samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Samples ``[n]`` at ``rate`` Hz, once they are seen to be a recording, to ``target`` Hz. Raises MediaFileError."""
    return require_finite(path, resample(path, require_level(path, require_finite(path, samples)), rate, target))


def resample(path: Path, samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Samples ``[n]`` at ``rate`` Hz to ``[ceil(n * target / rate)]`` at ``target`` Hz; equal rates change nothing.

    Raises
    ------
    MediaFileError
        A rate so odd that the filter bank would take gigabytes, or a result that does; ``path`` is named.
    """
    count = -(-len(samples) * target // rate)
    take(path, 3 * 4 * count)  # a front end copies it twice
    if rate == target:
        return samples
    common = gcd(rate, target)
    if (rate // common) * (target // common) > MAX_FILTER_BANK:
        raise MediaFileError(path, f"has a rate of {rate} Hz, which cannot be brought to {target} Hz")
    import torch

    resampler = _resampler(rate, target)
    with torch.inference_mode():
        if len(samples) <= _RESAMPLED_AT_ONCE:
            return np.ascontiguousarray(resampler(torch.from_numpy(samples)).numpy())
        return _resample_long(
            samples, rate // common, target // common, lambda x: resampler(torch.from_numpy(x)).numpy()
        )


def _resample_long(
    samples: NDArray[np.float32], old: int, new: int, resampler: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """``old`` samples become ``new``: piece by piece, since one pass takes many times the memory of its result."""
    resampled = np.empty(-(-len(samples) * new // old), np.float32)
    # to either side more than the filter reaches
    margin = old * (ceil(_FILTER_WIDTH / (_ROLLOFF * min(old, new))) + 1)
    piece = old * max(1, _RESAMPLED_AT_ONCE // old)
    for start in range(0, len(samples), piece):
        before = min(margin, start)
        part = resampler(samples[start - before : start + piece + margin])
        at, skipped = start // old * new, before // old * new
        length = min(piece // old * new, len(resampled) - at)
        resampled[at : at + length] = part[skipped : skipped + length]
    return resampled


def require_level(path: Path, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """``samples`` themselves, of one channel or the mean of some.

    Raises
    ------
    MediaFileError
        Floats with the range of integers: a peak over ``LOUDEST``, or one over 1 and nothing but whole numbers.
    """
    peak = float(max(samples.max(initial=0), -samples.min(initial=0)))
    if peak > LOUDEST or (peak >= 2 and bool((np.rint(2 * samples) == 2 * samples).all())):
        raise MediaFileError(
            path,
            f"has samples of up to {peak:g}, where floats are from -1 to 1: integers that were not divided by 32768?",
            hint="divide the samples by 32768, if they were 16-bit integers, before they are saved as floats",
        )
    return samples


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
