"""Ogg pages: each must be whole and bear out its checksum, as libsndfile writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.ogg import check_ogg


@pytest.fixture(params=["VORBIS", "OPUS"])
def ogg(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    noise = 0.3 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(tmp_path / "a.ogg", noise, 16_000, format="OGG", subtype=request.param)
    return tmp_path / "a.ogg"


def test_a_whole_file_passes_with_whatever_is_appended(ogg: Path) -> None:
    check_ogg(ogg)
    ogg.write_bytes(ogg.read_bytes() + b"TAG" + bytes(125))
    check_ogg(ogg)


def test_recordings_that_are_chained_are_refused(ogg: Path) -> None:
    """As an internet radio writes them; libsndfile reads the first and says nothing."""
    content = ogg.read_bytes()
    ogg.write_bytes(content + content)
    with pytest.raises(
        MediaFileError, match=rf"a.ogg: holds recordings one after another.* begins at byte {len(content)}"
    ):
        check_ogg(ogg)


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(100))
    check_ogg(tmp_path / "a.wav")


def test_any_flipped_bit_is_found(ogg: Path) -> None:
    content = ogg.read_bytes()
    for place in range(4, len(content), 211):  # without the first four bytes it is no Ogg file
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        ogg.write_bytes(damaged)
        with pytest.raises(MediaFileError, match=r"a.ogg: (is damaged: (the|no) Ogg page|is cut off)"):
            check_ogg(ogg)


def test_a_lost_start_of_a_page_is_found(ogg: Path) -> None:
    content = ogg.read_bytes()
    place = content.index(b"OggS", 1000)
    ogg.write_bytes(content[:place] + b"x" + content[place + 1 :])
    if b"OggS" in content[place + 1 :]:
        with pytest.raises(
            MediaFileError, match=rf"is damaged: no Ogg page begins at byte {place}, yet some come later"
        ):
            check_ogg(ogg)


def test_a_cut_within_a_page_is_found(ogg: Path) -> None:
    content = ogg.read_bytes()
    starts = {place for place in range(len(content)) if content.startswith(b"OggS", place)}
    for size in {*range(1, len(content), 97)} - starts:
        ogg.write_bytes(content[:size])
        with pytest.raises(MediaFileError, match=r"a.ogg: is cut off: the Ogg page at byte \d+ is not whole"):
            check_ogg(ogg)
