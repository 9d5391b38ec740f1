from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pictures import check_pictures, choose_frames, load_pictures, segment_pictures


def _fill(folder: Path, names: list[str]) -> Path:
    """A folder of pictures, each of a grey that tells its place in ``names``."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", (8, 6), (place * 4,) * 3).save(folder / name)
    return folder


def _jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (10, list(range(1, 11))),
        (30, [1, 4, 7, 10, 13, 17, 20, 23, 26, 30]),
        (31, [1, 4, 7, 11, 14, 17, 21, 24, 27, 31]),
        (60, [1, 7, 14, 20, 27, 33, 40, 46, 53, 60]),
        (1, [1] * 10),
        (2, [1] * 9 + [2]),
    ],
)
def test_worked_cases_of_the_specification(count: int, expected: list[int]) -> None:
    assert [index + 1 for index in choose_frames(count, 10)] == expected


@pytest.mark.parametrize("segments", [1, 2, 5, 10])
def test_integers_give_the_floor_of_linspace(segments: int) -> None:
    for count in range(1, 1001):
        peers = np.floor(np.linspace(1, count, segments)).astype(int) - 1
        assert choose_frames(count, segments) == peers.tolist()


@pytest.mark.parametrize("count", [73, 80, 81, 88])
def test_eight_pictures_a_second_give_the_first_of_each(count: int) -> None:
    assert choose_frames(count, 10, rate=8) == [8 * second for second in range(10)]


@pytest.mark.parametrize("count", [1, 10, 30, 72, 89, 160])
def test_another_number_of_pictures_is_spread_evenly_whatever_the_rate(count: int) -> None:
    assert choose_frames(count, 10, rate=8) == choose_frames(count, 10)


@pytest.mark.parametrize("width", [1, 4, 6, 8])
def test_any_number_width_is_read_in_numeric_order(tmp_path: Path, width: int) -> None:
    names = [f"{number:0{width}d}.jpg" for number in range(1, 31)]
    chosen = segment_pictures(_fill(tmp_path / "clip", names), 10)
    assert [int(path.stem) for path in chosen] == [1, 4, 7, 10, 13, 17, 20, 23, 26, 30]


def test_other_names_of_pictures_and_files_that_are_none(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", ["frame_2.JPG", "frame_10.jpeg", "frame_6.png"])
    for name in ("._frame_2.JPG", ".DS_Store", "Thumbs.db"):
        (folder / name).write_text("not a picture")
    assert [path.name for path in segment_pictures(folder, 3)] == ["frame_2.JPG", "frame_6.png", "frame_10.jpeg"]


def test_pixels_are_those_of_the_full_picture(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(_jpeg())
    first, second = load_pictures(tmp_path, 2)
    with Image.open(io.BytesIO(_jpeg())) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(first, expected)
    assert first is second
    assert first.shape == (64, 48, 3)
    assert first.flags.writeable


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "RGBA", "P"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "png" if mode in ("RGBA", "P", "1") else "jpg"
    Image.new("RGB", (5, 7), (255, 255, 255)).convert(mode).save(tmp_path / f"1.{suffix}")
    (picture,) = load_pictures(tmp_path, 1)
    assert (picture.shape, picture.dtype) == ((7, 5, 3), np.uint8)
    assert picture.min() >= 250


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([], r"clip: holds no pictures"),
        (["1.jpg", "01.jpg"], r"has the same frame number as"),
        (["cover.jpg", "1.jpg"], r"cover.jpg: has no frame number in its name"),
        (["1.jpg", "2.jpg", "4.jpg"], r"clip: a picture is missing after 2.jpg: the numbers are not even"),
        (["0.jpg", "3.jpg", "6.jpg", "12.jpg"], r"a picture is missing after 6.jpg"),
    ],
)
def test_a_folder_that_cannot_be_trusted(tmp_path: Path, names: list[str], what: str) -> None:
    with pytest.raises(MediaFileError, match=what):
        segment_pictures(_fill(tmp_path / "clip", names), 10)


def test_even_numbers_with_any_start_and_step(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", ["0.jpg", "3.jpg", "6.jpg", "9.jpg"])
    assert [path.name for path in segment_pictures(folder, 2)] == ["0.jpg", "9.jpg"]


@pytest.mark.parametrize("deep", [False, True])
def test_only_pictures_in_use_are_checked(tmp_path: Path, deep: bool) -> None:
    folder = _fill(tmp_path / "clip", ["1.jpg", "2.jpg", "3.jpg"])
    (folder / "2.jpg").write_bytes(b"")
    check_pictures(folder, 2, deep=deep)
    with pytest.raises(MediaFileError, match=r"2.jpg: is empty \(0 bytes\)"):
        check_pictures(folder, 3, deep=deep)


def test_bytes_that_are_no_picture_are_seen_by_the_deep_check(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"GIF89a not at all")
    check_pictures(tmp_path, 1, deep=False)
    with pytest.raises(MediaFileError, match=r"1.jpg: is not a JPEG or PNG picture"):
        check_pictures(tmp_path, 1, deep=True)


def test_a_picture_cut_in_half_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(_jpeg()[:2000])
    with pytest.raises(MediaFileError, match=r"1.jpg: cannot be decoded: image file is truncated"):
        load_pictures(tmp_path, 1)


@pytest.mark.parametrize("side", [9_000, 20_000, 60_000])
def test_a_small_file_that_asks_for_gigabytes_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b""))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(MediaFileError, match=r"1.png: .*more than 64000000 pixels"):
        load_pictures(tmp_path, 1)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_pictures_give_pixels_of_some_kind_or_an_error_that_names_the_file(tmp_path: Path, data) -> None:
    content = bytearray(_jpeg())
    for place in data.draw(st.lists(st.integers(0, 700), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "1.jpg").write_bytes(content)
    pictures, named = [], tmp_path / "1.jpg"
    try:
        pictures = load_pictures(tmp_path, 1)
    except MediaFileError as error:
        named = error.path
    assert named == tmp_path / "1.jpg"
    assert all(picture.ndim == 3 for picture in pictures)
