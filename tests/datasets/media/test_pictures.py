from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pictures import check_pictures, choose_frames, load_pictures, segment_pictures
from mettle_cache.datasets.protocol import SPREAD, PictureRule


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


@pytest.mark.parametrize("count", [10, 11, 12, 30, 72, 89, 160])
def test_a_layout_that_counts_by_the_second_reads_numbers_1_to_10(tmp_path: Path, count: int) -> None:
    """The published loader opens 00000001.jpg to 00000010.jpg whatever else is there."""
    folder = _fill(tmp_path / "clip", [f"{number:08d}.jpg" for number in range(1, count + 1)])
    chosen = segment_pictures(folder, 10, PictureRule(rate=8))
    assert [path.name for path in chosen] == [f"{number:08d}.jpg" for number in range(1, 11)]


def test_number_0_is_not_read_where_1_to_10_are_there(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", [f"{number}.jpg" for number in range(11)])
    assert [path.stem for path in segment_pictures(folder, 10, PictureRule(rate=8))] == [str(n) for n in range(1, 11)]
    (folder / "10.jpg").unlink()
    assert [path.stem for path in segment_pictures(folder, 10, PictureRule(rate=8))] == [str(n) for n in range(10)]


@pytest.mark.parametrize("count", [1, 7, 9])
def test_fewer_pictures_than_seconds_end_in_the_last_one_again(count: int) -> None:
    assert choose_frames(count, 10, rate=8) == [*range(count), *[count - 1] * (10 - count)]


def test_the_first_picture_must_be_there_where_they_are_counted_by_the_second(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", [f"{number}.jpg" for number in range(2, 12)])
    with pytest.raises(MediaFileError, match=r"clip: the first picture is 2.jpg: number 1 is missing"):
        segment_pictures(folder, 10, PictureRule(rate=8))
    assert len(segment_pictures(folder, 10)) == 10


@pytest.mark.parametrize(
    ("count", "rule", "said"),
    [
        (10, SPREAD, []),
        (6, SPREAD, ["6"]),
        (30, SPREAD, ["30"]),
        (60, PictureRule(longer=True), []),
        (6, PictureRule(longer=True), ["6"]),
        (10, PictureRule(rate=8), []),
        (80, PictureRule(rate=8), []),
        (12, PictureRule(rate=8), ["12"]),
    ],
)
def test_another_number_of_pictures_than_seconds_is_told(
    tmp_path: Path, count: int, rule: PictureRule, said: list[str]
) -> None:
    folder = _fill(tmp_path / "clip", [f"{number}.jpg" for number in range(1, count + 1)])
    remarks = check_pictures(folder, 10, rule, deep=False)
    assert [remark.value for remark in remarks] == said
    assert all("another number of pictures than their 10 seconds" in remark.what for remark in remarks)


@pytest.mark.parametrize("width", [1, 4, 6, 8])
def test_any_number_width_is_read_in_numeric_order(tmp_path: Path, width: int) -> None:
    names = [f"{number:0{width}d}.jpg" for number in range(1, 31)]
    chosen = segment_pictures(_fill(tmp_path / "clip", names), 10)
    assert [int(path.stem) for path in chosen] == [1, 4, 7, 10, 13, 17, 20, 23, 26, 30]


def test_other_names_of_pictures_and_files_that_are_none(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", ["frame_2.JPG", "frame_10.jpeg", "frame_6.png", "frame_14.WebP"])
    for name in ("._frame_2.JPG", ".DS_Store", "Thumbs.db"):
        (folder / name).write_text("not a picture")
    assert [path.name for path in segment_pictures(folder, 4)] == [
        "frame_2.JPG",
        "frame_6.png",
        "frame_10.jpeg",
        "frame_14.WebP",
    ]


def test_pixels_are_those_of_the_full_picture(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(_jpeg())
    first, second = load_pictures(tmp_path, 2)
    with Image.open(io.BytesIO(_jpeg())) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(first, expected)
    assert first is second
    assert first.shape == (64, 48, 3)
    assert first.flags.writeable


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
    with pytest.raises(MediaFileError, match=r"1.jpg: is a GIF, not a JPEG, PNG, WebP or BMP picture"):
        check_pictures(tmp_path, 1, deep=True)


def test_pictures_of_one_clip_may_have_other_sizes(tmp_path: Path) -> None:
    for number, size in enumerate([(8, 6), (20, 10), (3, 3)], start=1):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert [picture.shape for picture in load_pictures(tmp_path, 3)] == [(6, 8, 3), (10, 20, 3), (3, 3, 3)]


def test_what_exif_and_alpha_ask_for_is_told_by_the_deep_check(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(stored).save(tmp_path / "1.png", exif=exif)
    Image.new("RGBA", (8, 6)).save(tmp_path / "2.png")
    assert check_pictures(tmp_path, 2, deep=False) == []
    said = [f"{remark.what}: {remark.then}" for remark in check_pictures(tmp_path, 2, deep=True)]
    assert said == [
        "hold pictures that their EXIF turns: they are read as they are stored, as published",
        "hold pictures that can be transparent: their colours are read without that, as published",
    ]
    np.testing.assert_array_equal(load_pictures(tmp_path, 2)[0], stored)


def test_a_tag_of_another_value_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("RGB", (8, 6)).save(tmp_path / "1.jpg", exif=exif)
    assert check_pictures(tmp_path, 1, deep=True) == []


def test_names_with_escape_sequences_are_written_out(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "clip", ["1.jpg", "\x1b[31m1.png"])
    with pytest.raises(MediaFileError, match=r"1\.(jpg|png)") as caught:
        segment_pictures(folder, 1)
    assert "\\x1b[31m1.png" in str(caught.value)
    assert str(caught.value).isprintable()
