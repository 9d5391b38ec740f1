"""Recordings as arrays: ``.npy``, and the arrays of ``AVS.npy``. An array says neither its rate nor its channels.

By the definition of the layouts it is 32 kHz mono (docs/protocols/avel.md, "Media on disk"). What shape and type leave
no doubt about is converted; the rest is refused rather than read as something that happens to be of the same size.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.npy import map_npy
from mettle_cache.datasets.media.waveform import mix_down

NPY_RATE = 32_000
"""Hz of every array."""

MOST_CHANNELS = 8
_FULL_SCALE = 32_768


def read_npy(path: Path, segments: int) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` and their rate from an array of ``segments`` seconds.

    Raises
    ------
    MediaFileError
        Another kind of array (a pickle is never loaded), or another length.
    """
    return to_mono(path, open_npy(path, segments), segments), NPY_RATE


def open_npy(path: Path, segments: int) -> NDArray[np.generic]:
    """The array as a memory map, its header checked against the file's size and against the layout."""
    stored = map_npy(path)
    check_array(path, stored.shape, stored.dtype, segments)
    return stored


def check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, segments: int, *, name: str = "") -> None:
    """Raise MediaFileError unless ``segments`` seconds can be read from such an array, called ``name`` in ``path``."""
    what = f"{name} " if name else ""
    if dtype.kind != "f" and dtype.newbyteorder("=") != np.int16:
        raise MediaFileError(
            path,
            f"{what}holds {dtype}, not floats or 16-bit integers",
            hint="save floats from -1 to 1, or give the recording as .wav",
        )
    arranged = _arrange(shape, segments)
    if arranged is None:
        raise MediaFileError(
            path,
            f"{what}has shape {shape}: neither [samples], [channels, samples], [samples, channels] "
            f"nor ({segments}, {NPY_RATE})",
        )
    samples, axis = arranged
    if abs(samples - segments * NPY_RATE) > _tolerance(segments):
        raise MediaFileError(
            path,
            f"{what}has shape {shape}: {'mono' if axis is None else 'channels'} of {samples / NPY_RATE:.3f} s "
            f"at {NPY_RATE} Hz, not of {segments} s",
            hint="give recordings of another rate or length as .wav, which says its rate",
        )


def to_mono(path: Path, array: NDArray[np.generic], segments: int) -> NDArray[np.float32]:
    """An array that :func:`check_array` let pass, to samples ``[n]``: integers scaled, channels averaged."""
    take(path, 4 * array.size)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which require_finite refuses
        samples = np.array(array, dtype=np.float32, order="C")
    if array.dtype.kind != "f":
        samples /= _FULL_SCALE
    match _arrange(array.shape, segments):
        case (_, int(axis)):
            return mix_down(np.moveaxis(samples.squeeze(), axis, 0))
        case _:
            return samples.reshape(-1)


def _arrange(shape: tuple[int, ...], segments: int) -> tuple[int, int | None] | None:
    """The samples of one channel, and which of the sides that are not 1 counts channels, if one does.

    None for a shape that might mean one thing or another.
    """
    sides = tuple(side for side in shape if side != 1)
    # the second is what the peers' own view makes of a row
    if (shape and len(sides) <= 1) or sides == (segments, NPY_RATE):
        return math.prod(shape), None
    if len(sides) == 2 and 1 < min(sides) <= MOST_CHANNELS < max(sides):
        return max(sides), sides.index(min(sides))
    return None


def _tolerance(segments: int) -> int:
    """Samples that may be missing or too many: a second, yet never so many that it could be another rate."""
    return min(NPY_RATE, segments * NPY_RATE // 8)
