"""Memory that the media of one clip may take."""

from pathlib import Path

import pytest

from mettle_cache.datasets.media import allowance
from mettle_cache.datasets.media.allowance import Allowance, allowed, take
from mettle_cache.datasets.media.fault import MediaFileError

FILE = Path("a.png")


def test_what_a_clip_takes_adds_up():
    with allowed(Allowance(100)):
        take(FILE, 60)
        with pytest.raises(MediaFileError, match=r"a\.png: takes .* more than the .* that a clip may take") as refused:
            take(FILE, 41)
        take(FILE, 40)
    assert "--memory" in refused.value.hint


def test_the_outer_allowance_goes_on():
    with allowed(Allowance(100)) as outer:
        with allowed(Allowance(1000)):
            take(FILE, 90)
        assert outer.taken == 90


def test_without_one_each_file_has_its_own():
    take(FILE, allowance.CLIP_BYTES)
    take(FILE, allowance.CLIP_BYTES)
    with pytest.raises(MediaFileError):
        take(FILE, allowance.CLIP_BYTES + 1)
