"""Bytes of small videos flipped, cut, swapped, repeated and blanked, the same ones every time."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.container import measure
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import load_video_audio
from mettle_cache.datasets.media.video import load_video_frames
from tests.datasets.media.containers import KINDS, whole_video

MIDDLES = [second + 0.5 for second in range(10)]
TIMES = 8
HEADER = 3000


def damage(content: bytes, rng: random.Random) -> bytes:
    """One kind of damage, anywhere or where headers and indexes are."""
    damaged, size = bytearray(content), len(content)
    how = rng.choice(["flip", "header", "index", "cut", "swap", "repeat", "blank"])
    if how in ("flip", "header", "index"):
        places = {"flip": range(size), "header": range(min(size, HEADER)), "index": range(max(0, size - HEADER), size)}
        for _ in range(rng.randint(1, 12)):
            damaged[rng.choice(places[how])] = rng.choice([0, 127, 128, 255, rng.randrange(256)])
        return bytes(damaged)
    if how == "cut":
        return content[: rng.randrange(size)]
    length = rng.randint(1, 400)
    first, second = rng.randrange(size - length), rng.randrange(size - length)
    piece = content[first : first + length]
    if how == "swap":
        damaged[first : first + length] = content[second : second + length]
        damaged[second : second + length] = piece
    elif how == "repeat":
        damaged[second:second] = piece
    else:
        damaged[first : first + length] = bytes(length)
    return bytes(damaged)


@pytest.mark.parametrize("kind", list(KINDS))
def test_damage_gives_media_of_the_right_shape_or_an_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    rng, path = random.Random(kind), tmp_path / f"clip{KINDS[kind].suffix}"
    read, named = 0, {path}
    for _ in range(TIMES):
        path.write_bytes(damage(whole_video(kind), rng))
        with allowed(Allowance()) as allowance:
            try:
                pictures = load_video_frames(path, MIDDLES)
                assert len(pictures) == 10
                assert all((picture.ndim, picture.shape[2], picture.dtype) == (3, 3, np.uint8) for picture in pictures)
                samples, rate = load_video_audio(path)
                assert (samples.ndim, samples.dtype) == (1, np.float32)
                assert rate > 0
                assert measure(path, "video") < 1e9
                read += 1
            except MediaFileError as error:
                named.add(error.path)
        assert allowance.taken < 100_000_000
    assert read < TIMES
    assert named == {path}
