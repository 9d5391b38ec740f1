from __future__ import annotations

import itertools
import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mettle_cache.datasets.media import video
from mettle_cache.datasets.media.fault import MediaFileError
from tests.datasets.media.containers import KINDS, write_video

MATRICES = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a) + abs(b) == abs(c) + abs(d) == abs(a) + abs(c) == 1
]


def _corners(number: int) -> np.ndarray:
    """A picture that no turn and no mirror leaves as it is."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    return picture


def _with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write the matrix into the track header of the first track, which is the video."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", *(round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(content)
    return path


def _mapped(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every pixel (x, y) put at (a x + c y, b x + d y), moved to where coordinates begin with 0."""
    y, x = np.indices(picture.shape[:2])
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = picture
    return shown


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("upright") / "a.mp4", KINDS["mp4"], seconds=1, picture=_corners)


def _copy(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(source.read_bytes())
    return path


def test_there_are_eight_orientations() -> None:
    assert len(MATRICES) == 8


@pytest.mark.parametrize("matrix", MATRICES)
def test_pictures_are_turned_and_mirrored_as_the_matrix_says(upright: Path, tmp_path: Path, matrix) -> None:
    stored = video.load_video_frames(upright, [0.5])[0]
    shown = video.load_video_frames(_with_matrix(_copy(upright, tmp_path), *matrix), [0.5])[0]
    assert shown.flags.c_contiguous
    np.testing.assert_array_equal(shown, _mapped(stored, *matrix))


def test_a_phone_held_upright_is_turned_clockwise(upright: Path, tmp_path: Path) -> None:
    """What phones write as a rotation of 90 degrees: the stored left edge is the shown upper edge."""
    stored = video.load_video_frames(upright, [0.5])[0]
    shown = video.load_video_frames(_with_matrix(_copy(upright, tmp_path), 0, 1, -1, 0), [0.5])[0]
    np.testing.assert_array_equal(shown, np.rot90(stored, k=-1))


@pytest.mark.parametrize(("degrees", "turned"), [(0.4, False), (89.6, True), (30, None), (45, None), (-120, None)])
def test_odd_angles(upright: Path, tmp_path: Path, degrees: float, turned: bool | None) -> None:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    path = _with_matrix(_copy(upright, tmp_path), cosine, sine, -sine, cosine)
    if turned is None:
        with pytest.raises(
            MediaFileError, match=rf"clip.mp4: is to be shown turned by {degrees} degrees: only quarter"
        ):
            video.load_video_frames(path, [0.5])
    else:
        assert video.load_video_frames(path, [0.5])[0].shape == ((48, 32, 3) if turned else (32, 48, 3))


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 1)])
def test_a_matrix_that_shows_nothing_is_ignored(upright: Path, tmp_path: Path, matrix) -> None:
    stored = video.load_video_frames(upright, [0.5])[0]
    np.testing.assert_array_equal(
        video.load_video_frames(_with_matrix(_copy(upright, tmp_path), *matrix), [0.5])[0], stored
    )


def test_a_size_other_than_one_changes_no_pixel(upright: Path, tmp_path: Path) -> None:
    stored = video.load_video_frames(upright, [0.5])[0]
    scaled = video.load_video_frames(_with_matrix(_copy(upright, tmp_path), 0, 2, -0.5, 0), [0.5])[0]
    np.testing.assert_array_equal(scaled, np.rot90(stored, k=-1))


def test_a_picture_s_own_orientation_beside_data_that_pyav_cannot_name(tmp_path: Path) -> None:
    """Cameras write EXIF into each picture of a Motion JPEG; FFmpeg 8.1 and later tell it as a display matrix."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_corners(0)).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=4)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj444p"
        for number in range(4):
            packet = av.Packet((tmp_path / "a.jpg").read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 4)
            out.mux(packet)
    with av.open(str(path)) as written:
        turns = next(written.decode(video=0)).rotation
    shown = video.load_video_frames(path, [0.5])[0]
    expected = np.rot90(_corners(0), k=turns // 90)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 4
