"""A folder of numbered pictures: which T of them stand for the segments, and their pixels."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from mettle_cache.datasets.media.fault import MediaFileError, require_file, require_folder

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded: a few kilobytes can ask for gigabytes."""

POLICY: dict[str, object] = {
    "frames": "picture floor(linspace(1, n, T)[t]) of n in numeric order, first and last included",
    "pixels": "Pillow, RGB, full size, no draft mode, EXIF orientation ignored",
}


def decoder_versions() -> dict[str, object]:
    """The libraries whose version can change a decoded pixel."""
    return {"libjpeg": features.version("libjpeg_turbo") or features.version("jpg")}


def choose_frames(count: int, segments: int, rate: int | None = None) -> list[int]:
    """0-based indexes of the pictures of each segment, evenly spaced from the first to the last.

    The floor of ``linspace(1, count, segments)``, minus 1, in integers (docs/protocols/avel.md, "Choice of frames");
    fewer pictures than segments repeat. Where a layout has ``rate`` pictures a second and there are that many, give or
    take a second, they are the first of each second (docs/protocols/avvp.md, "Media on disk").

    >>> [index + 1 for index in choose_frames(31, 10)]
    [1, 4, 7, 11, 14, 17, 21, 24, 27, 31]
    >>> choose_frames(80, 10, rate=8)
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 72]
    """
    if rate and (segments - 1) * rate < count <= (segments + 1) * rate:
        return [second * rate for second in range(segments)]
    steps = max(segments - 1, 1)
    return [index * (count - 1) // steps for index in range(segments)]


def segment_pictures(folder: Path, segments: int, rate: int | None = None) -> list[Path]:
    """The file of each segment, T paths; ``rate`` as :func:`choose_frames`.

    Raises
    ------
    MediaFileError
        No folder, no pictures, a picture without a number, or numbers that show that a picture is missing.
    """
    pictures = _numbered_pictures(folder)
    return [pictures[index] for index in choose_frames(len(pictures), segments, rate)]


def load_pictures(folder: Path, segments: int, rate: int | None = None) -> list[NDArray[np.uint8]]:
    """T RGB arrays ``[H, W, 3]``; segments that share a picture share the array."""
    files = segment_pictures(folder, segments, rate)
    decoded = {path: load_picture(path) for path in dict.fromkeys(files)}
    return [decoded[path] for path in files]


def check_pictures(folder: Path, segments: int, rate: int | None = None, *, deep: bool) -> None:
    """Raise MediaFileError for the first picture in use that is missing or empty; ``deep`` opens each one."""
    for path in dict.fromkeys(segment_pictures(folder, segments, rate)):
        require_file(path)
        if deep:
            check_picture(path)


def load_picture(path: Path) -> NDArray[np.uint8]:
    """One picture as RGB ``[H, W, 3]``. Raises MediaFileError."""
    return _decode(path, "RGB")


def load_grey(path: Path) -> NDArray[np.uint8]:
    """One picture as brightness ``[H, W]``. Raises MediaFileError."""
    return _decode(path, "L")


def check_picture(path: Path) -> None:
    """Raise MediaFileError for a file that is no picture by its header."""
    _open(path).close()


def _numbered_pictures(folder: Path) -> list[Path]:
    require_folder(folder)
    numbers: dict[int, str] = {}
    for name in os.listdir(folder):
        # names with a leading dot are what macOS leaves beside the files it copies
        if name.startswith(".") or not name.lower().endswith(SUFFIXES):
            continue
        digits = re.search(r"([0-9]{1,18})\.[^.]*$", name)
        if digits is None:
            raise MediaFileError(folder / name, "has no frame number in its name")
        if numbers.setdefault(int(digits[1]), name) != name:
            raise MediaFileError(folder / name, f"has the same frame number as {numbers[int(digits[1])]}")
    if not numbers:
        raise MediaFileError(folder, f"holds no pictures ({', '.join(SUFFIXES)})")
    ordered = sorted(numbers)
    _refuse_gaps(folder, ordered, numbers)
    return [folder / numbers[number] for number in ordered]


def _refuse_gaps(folder: Path, ordered: list[int], names: dict[int, str]) -> None:
    """A hole in the numbering would shift every later segment in time, and nobody would see it."""
    steps = [after - before for before, after in itertools.pairwise(ordered)]
    usual = min(steps, default=0)
    for number, step in zip(ordered, steps, strict=False):
        if step > usual:
            raise MediaFileError(folder, f"a picture is missing after {names[number]}: the numbers are not even")


def _open(path: Path) -> Image.Image:
    require_file(path)
    try:
        picture = Image.open(path, formats=("JPEG", "PNG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaFileError(path, f"has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise MediaFileError(path, "is not a JPEG or PNG picture") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaFileError(path, f"cannot be decoded: {error}") from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise MediaFileError(path, f"is {picture.width} x {picture.height}: more than {MAX_PIXELS} pixels")
    return picture


def _decode(path: Path, mode: str) -> NDArray[np.uint8]:
    with _open(path) as picture:
        try:
            return np.array(picture.convert(mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise MediaFileError(path, f"cannot be decoded: {error}") from error
