"""A folder of numbered pictures: which T of them stand for the segments, and their pixels."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media import pixels
from mettle_cache.datasets.media.fault import MediaFileError, require_file, require_folder
from mettle_cache.datasets.media.pixels import PictureHeader, check_picture, load_picture
from mettle_cache.datasets.media.remarks import Remark
from mettle_cache.datasets.protocol import SPREAD, PictureRule
from mettle_cache.datasets.textfile import escaped

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_SPREAD = "picture floor(linspace(1, n, T)[t]) of n in numeric order, first and last included"
_BY_SECOND = "picture t + 1 in numeric order, the last one where there are fewer"


def policy(rule: PictureRule = SPREAD) -> dict[str, object]:
    """How pictures are chosen and decoded, as JSON."""
    frames = _BY_SECOND if rule.rate else _SPREAD
    return {"frames": frames, "pixels": pixels.POLICY, "versions": pixels.decoder_versions()}


def choose_frames(count: int, segments: int, rate: int | None = None) -> list[int]:
    """0-based indexes of the pictures of each segment, evenly spaced from the first to the last.

    The floor of ``linspace(1, count, segments)``, minus 1, in integers (docs/protocols/avel.md, "Choice of frames");
    fewer pictures than segments repeat.

    A layout with a ``rate`` counts pictures by the second instead (docs/protocols/avvp.md, "Media on disk"): where
    there are about ``rate`` a second, give or take a second, they are the first of each second; otherwise one is a
    second, those beyond the last segment are not looked at, and the last picture repeats where there are fewer.

    >>> [index + 1 for index in choose_frames(31, 10)]
    [1, 4, 7, 11, 14, 17, 21, 24, 27, 31]
    >>> choose_frames(80, 10, rate=8)
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 72]
    >>> choose_frames(12, 10, rate=8)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if rate and _counts_by(count, segments, rate):
        return [second * rate for second in range(segments)]
    if rate:
        return [min(second, count - 1) for second in range(segments)]
    steps = max(segments - 1, 1)
    return [index * (count - 1) // steps for index in range(segments)]


def segment_pictures(folder: Path, segments: int, rule: PictureRule = SPREAD) -> list[Path]:
    """The file of each segment, T paths.

    Raises
    ------
    MediaFileError
        No folder, no pictures, a picture without a number, or numbers that show that a picture is missing.
    """
    return _chosen(_numbered_pictures(folder, from_one=rule.rate is not None), segments, rule)


def load_pictures(folder: Path, segments: int, rule: PictureRule = SPREAD) -> list[NDArray[np.uint8]]:
    """T RGB arrays ``[H, W, 3]``, each of its file's size; segments that share a picture share the array.

    Raises
    ------
    MediaFileError
        As :func:`segment_pictures` and :func:`load_picture`, or pictures that take more memory than a clip may.
    """
    files = segment_pictures(folder, segments, rule)
    decoded = {path: load_picture(path) for path in dict.fromkeys(files)}
    return [decoded[path] for path in files]


def check_pictures(folder: Path, segments: int, rule: PictureRule = SPREAD, *, deep: bool) -> list[Remark]:
    """What is to be said of the pictures in use; ``deep`` opens each one.

    Raises
    ------
    MediaFileError
        The first of them that is missing or empty, or that does not open.
    """
    pictures = _numbered_pictures(folder, from_one=rule.rate is not None)
    headers = []
    for path in dict.fromkeys(_chosen(pictures, segments, rule)):
        require_file(path)
        if deep:
            headers.append(check_picture(path))
    return [*_count_remark(len(pictures), segments, rule), *header_remarks(headers)]


def header_remarks(headers: list[PictureHeader]) -> Iterator[Remark]:
    """What is to be said of a clip for what its pictures ask for and do not get."""
    if any(header.turned for header in headers):
        yield Remark("hold pictures that their EXIF turns", "they are read as they are stored, as published")
    if any(header.transparent for header in headers):
        yield Remark("hold pictures that can be transparent", "their colours are read without that, as published")


def _count_remark(count: int, segments: int, rule: PictureRule) -> Iterator[Remark]:
    usual = count >= segments if rule.longer else count == segments
    if usual or (rule.rate and _counts_by(count, segments, rule.rate)):
        return
    then = "they are spread over all seconds, the first and the last included, whenever they were taken"
    if rule.rate:
        then = f"the first {segments} are read, as published, and the last one again where there are fewer"
    yield Remark(f"hold another number of pictures than their {segments} seconds", then, str(count))


def _counts_by(count: int, segments: int, rate: int) -> bool:
    """Whether ``count`` pictures are ``rate`` a second, give or take a second."""
    return (segments - 1) * rate < count <= (segments + 1) * rate


def _chosen(pictures: dict[int, Path], segments: int, rule: PictureRule) -> list[Path]:
    """The T of ``pictures``, by number in their order, that the rule gives."""
    if rule.rate and not _counts_by(len(pictures), segments, rule.rate):
        named = [pictures[number] for number in range(1, segments + 1) if number in pictures]
        if len(named) == segments:  # whatever stands before number 1 or is between: the published loader goes by name
            return named
    in_order = list(pictures.values())
    return [in_order[index] for index in choose_frames(len(in_order), segments, rule.rate)]


def _names(folder: Path) -> list[str]:
    require_folder(folder)
    try:
        return os.listdir(folder)
    except OSError as error:
        raise MediaFileError(folder, f"cannot be listed: {error.strerror}") from error


def _numbered_pictures(folder: Path, *, from_one: bool) -> dict[int, Path]:
    """The pictures by number, in order; ``from_one``: the first stands for the first second and must be there."""
    numbers: dict[int, str] = {}
    for name in _names(folder):
        # names with a leading dot are what macOS leaves beside the files it copies
        if name.startswith(".") or not name.lower().endswith(SUFFIXES):
            continue
        digits = re.search(r"([0-9]{1,18})\.[^.]*$", name)
        if digits is None:
            raise MediaFileError(folder / name, "has no frame number in its name")
        if numbers.setdefault(int(digits[1]), name) != name:
            raise MediaFileError(folder / name, f"has the same frame number as {escaped(numbers[int(digits[1])])}")
    if not numbers:
        raise MediaFileError(folder, f"holds no pictures ({', '.join(SUFFIXES)})")
    ordered = sorted(numbers)
    if from_one and ordered[0] > 1:
        raise MediaFileError(folder, f"the first picture is {escaped(numbers[ordered[0]])}: number 1 is missing")
    _refuse_gaps(folder, ordered, numbers)
    return {number: folder / numbers[number] for number in ordered}


def _refuse_gaps(folder: Path, ordered: list[int], names: dict[int, str]) -> None:
    """A hole in the numbering would shift every later segment in time, and nobody would see it."""
    steps = [after - before for before, after in itertools.pairwise(ordered)]
    usual = min(steps, default=0)
    for number, step in zip(ordered, steps, strict=False):
        if step > usual:
            raise MediaFileError(
                folder, f"a picture is missing after {escaped(names[number])}: the numbers are not even"
            )
