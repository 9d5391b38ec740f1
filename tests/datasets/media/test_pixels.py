from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pixels import MAX_PIXELS, check_picture, load_picture
from tests.datasets.media.picture_files import PALETTE, assemble, blank, chunk, png

RNG = np.random.default_rng(0)


def _natural(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that JPEG keeps nearly as it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 4, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)


def _saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _load(tmp_path: Path, content: bytes, name: str = "1.jpg") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    loaded = load_picture(tmp_path / name)
    assert (loaded.dtype, loaded.ndim, loaded.shape[2], loaded.flags.writeable) == (np.uint8, 3, 3, True)
    assert loaded.flags.c_contiguous
    return loaded


def _palette(colours: np.ndarray, alpha: bytes = b"") -> bytes:
    return chunk(b"PLTE", colours.tobytes()) + (chunk(b"tRNS", alpha) if alpha else b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_of_png_gives_its_colours(tmp_path: Path, channels: int, dtype: type) -> None:
    """Transparency is left out, grey becomes three equal channels, and 16 bits are taken by their upper 8."""
    values = RNG.integers(0, np.iinfo(dtype).max, (7, 9, channels), dtype, endpoint=True)
    grey_or_rgb = values[..., : 1 if channels < 3 else 3]
    expected = np.broadcast_to(grey_or_rgb >> (8 if dtype is np.uint16 else 0), (7, 9, 3))
    np.testing.assert_array_equal(_load(tmp_path, png(values)), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_grey_in_8_and_in_16_bits_gives_the_same_pixels(tmp_path: Path, channels: int) -> None:
    """A picture of 8 bits that was widened to 16, however that was done."""
    grey = np.tile(np.arange(256, dtype=np.uint16)[:, None, None], (1, 4, channels))
    for widened in (grey * 257, grey << 8):
        np.testing.assert_array_equal(_load(tmp_path, png(widened))[..., 0], grey[..., 0])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_that_hold_8_are_refused_and_black_is_not(tmp_path: Path, channels: int) -> None:
    values = RNG.integers(0, 200, (7, 9, channels), np.uint16)
    values[..., 0].flat[0] = 199
    if channels == 4:
        values[..., 3] = 65535
    with pytest.raises(MediaFileError, match=r"has 16 bits a value and none above 199 of 65535: black, or 8 bits"):
        _load(tmp_path, png(values))
    assert not _load(tmp_path, png(np.zeros((7, 9, channels), np.uint16))).any()


def test_one_two_and_four_bits_of_grey_reach_from_black_to_white(tmp_path: Path) -> None:
    for bits in (1, 2, 4):
        levels = np.arange(1 << bits, dtype=np.uint8)
        packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, -bits:].ravel()).tobytes()
        header = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
        loaded = _load(tmp_path, assemble(header, zlib.compress(b"\0" + packed)))
        np.testing.assert_array_equal(loaded[0, :, 0], levels * (255 // levels[-1]))


@pytest.mark.parametrize("alpha", [b"", b"\xff\x00\x80\xff"])
def test_a_palette_gives_its_colours_with_and_without_transparency(tmp_path: Path, alpha: bytes) -> None:
    colours = RNG.integers(0, 256, (4, 3), np.uint8)
    indexes = RNG.integers(0, 4, (7, 9), np.uint8)
    loaded = _load(tmp_path, png(indexes, colour_type=PALETTE, extra=_palette(colours, alpha)))
    np.testing.assert_array_equal(loaded, colours[indexes])


def test_one_transparent_colour_changes_no_pixel(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (7, 9, 3), np.uint8)
    key = chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in values[0, 0]))
    np.testing.assert_array_equal(_load(tmp_path, png(values, extra=key)), values)


def test_an_interlaced_png_gives_what_a_plain_one_gives(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [
        b"\0" + row.tobytes() for top, left, down, right in passes for row in values[top::down, left::right] if row.size
    ]
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
    np.testing.assert_array_equal(_load(tmp_path, assemble(header, zlib.compress(b"".join(rows)))), values)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_kind_are_close_to_what_was_saved(tmp_path: Path, mode: str, progressive: bool) -> None:
    picture = Image.fromarray(_natural()).convert(mode)
    loaded = _load(tmp_path, _saved(picture, "JPEG", quality=95, progressive=progressive))
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2) if mode == "L" else _natural()
    assert np.abs(loaded.astype(int) - grey).mean() < 3


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("PNG", {})])
def test_pictures_are_known_by_their_content(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(_load(tmp_path, _saved(_natural(), kind, **options), "00000001.jpg"), _natural())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", r"is a git-lfs pointer \(fetch the file"),
        (_saved(_natural(), "GIF"), "is a GIF"),
        (_saved(_natural(), "TIFF"), "is a TIFF"),
        (_saved(_natural(), "EPS"), "is a PostScript document"),
        (b"\0\0\0\x1cftypisom\0\0\2\0", "is an MP4 or QuickTime video"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "is an HEIC picture"),
        (b"\x1aE\xdf\xa3" + b"\0" * 60, "is a WebM or Matroska video"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "is a WAV recording"),
        (b"\0" * 1000, "is all zeros at its start"),
        (b"hello", r"is text \('hello'\)"),
        (b"\1hello", r"is of another kind \(01 68 65 6c 6c 6f at its start\)"),
    ],
)
def test_what_is_no_picture_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    for read in (check_picture, load_picture):
        with pytest.raises(MediaFileError, match=rf"1\.jpg: {what}.*, not a JPEG, PNG, WebP or BMP picture"):
            read(tmp_path / "1.jpg")


def test_what_is_drawn_in_the_alpha_channel_alone_is_refused(tmp_path: Path) -> None:
    values = np.zeros((7, 9, 4), np.uint8)
    values[2:4, 3:6, 3] = 255
    with pytest.raises(MediaFileError, match="is one colour all over: what it shows is in its alpha channel"):
        _load(tmp_path, png(values))
    values[0, 0, 0] = 9
    np.testing.assert_array_equal(_load(tmp_path, png(values)), values[..., :3])


def test_pictures_that_can_be_meant_in_two_ways_are_refused(tmp_path: Path) -> None:
    cmyk = _saved(Image.new("CMYK", (8, 8), (9, 9, 9, 9)), "JPEG")
    start = cmyk.index(b"\xff\xee")
    length = int.from_bytes(cmyk[start + 2 : start + 4], "big")
    frames = [Image.fromarray(_natural()), Image.fromarray(_natural()[::-1])]
    for content, what in (
        (cmyk[:start] + cmyk[start + 2 + length :], "is CMYK without Adobe's marker"),
        (_saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), "is an animation of 2 pictures"),
        (_saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "is an animation of 2 pictures"),
        (
            png(np.full((4, 4), 3, np.uint8), colour_type=PALETTE, extra=_palette(np.ones((2, 3), np.uint8))),
            "has index 3 of a palette of 2 colours",
        ),
        (png(np.zeros((4, 4), np.uint8), colour_type=PALETTE), "has indexes of a palette, and no palette"),
    ):
        with pytest.raises(MediaFileError, match=what):
            _load(tmp_path, content)


def test_a_cut_picture_is_named_even_where_another_library_lets_it_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = _saved(RNG.integers(0, 256, (64, 48, 3), np.uint8), "JPEG", quality=90)
    with pytest.raises(MediaFileError, match=r"1.jpg: cannot be decoded: image file is truncated"):
        _load(tmp_path, whole[:2000])


@pytest.mark.parametrize("place", [45, 200, 1000, -20])
def test_a_png_with_one_damaged_byte_is_named(tmp_path: Path, place: int) -> None:
    content = bytearray(png(RNG.integers(0, 256, (32, 32, 3), np.uint8)))
    content[place] ^= 1
    with pytest.raises(MediaFileError, match=r"1.jpg: cannot be decoded"):
        _load(tmp_path, bytes(content))


@pytest.mark.parametrize("side", [9_000, 20_000, 60_000])
def test_a_small_file_that_asks_for_gigabytes_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    with pytest.raises(MediaFileError, match=rf"1.jpg: is {side} x {side}: .*more than {MAX_PIXELS} pixels"):
        _load(tmp_path, assemble(header, zlib.compress(b"\0" * 1000)))


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_a_webp_that_asks_for_gigabytes_is_refused_before_it_is_opened(tmp_path: Path, kind: bytes) -> None:
    sides = struct.pack("<I", 15_999)[:3] * 2
    body = {
        b"VP8X": b"\0\0\0\0" + sides,
        b"VP8L": b"\x2f" + struct.pack("<I", 15_999 | 15_999 << 14),
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000),
    }[kind]
    with pytest.raises(MediaFileError, match=r"is 16000 x 16000: .*more than 64000000 pixels"):
        _load(tmp_path, b"RIFF\0\0\0\0WEBP" + kind + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 200_000_000)),
        chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 200_000_000)),
        chunk(b"acTL", struct.pack(">II", 1_000_000, 0)),
    ],
    ids=["text", "profile", "animation"],
)
def test_chunks_that_would_grow_without_bound_are_refused(tmp_path: Path, extra: bytes) -> None:
    with pytest.raises(MediaFileError, match=r"1.jpg: (cannot be decoded|is an animation of 100000[01] )"):
        _load(tmp_path, png(np.zeros((4, 4, 3), np.uint8), extra=extra))


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    content = _saved(_natural(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    with pytest.raises(MediaFileError, match="is a progressive JPEG of more than 500 scans"):
        _load(tmp_path, content[:-2] + scan * 600 + b"\xff\xd9")


def test_what_a_picture_takes_is_asked_of_the_clips_allowance(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(blank(100))
    with allowed(Allowance(130_000)) as allowance:
        load_picture(tmp_path / "1.png")
        assert allowance.taken == 30_000
        with pytest.raises(MediaFileError, match=r"1.png: takes .* of memory to decode"):
            load_picture(tmp_path / "1.png")


_PEAK = """
import resource, sys
from pathlib import Path
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pictures import load_pictures
folder, count, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
load_pictures(folder / "small", 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with allowed(Allowance(limit)):
    try:
        print(len(load_pictures(folder / "large", count)))
    except MediaFileError as error:
        print(error.what)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def _peak(folder: Path, picture: bytes, *, count: int, limit: int) -> tuple[str, int]:
    """What a new process says of ``count`` times ``picture``, and by how many bytes its peak grows."""
    for name, content, copies in (("small", png(np.zeros((4, 4, 3), np.uint8)), 1), ("large", picture, count)):
        (folder / name).mkdir()
        (folder / name / "1.jpg").write_bytes(content)
        for number in range(2, copies + 1):
            (folder / name / f"{number}.jpg").hardlink_to(folder / name / "1.jpg")
    command = [sys.executable, "-c", _PEAK, str(folder), str(count), str(limit)]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, int(peak)


@pytest.mark.slow
@pytest.mark.parametrize(
    "picture",
    [
        blank(3000),
        blank(3000, depth=16, colour_type=0),
        blank(3000, depth=16, colour_type=6),
        _saved(Image.new("CMYK", (3000, 3000)), "JPEG", progressive=True),
        _saved(Image.new("RGB", (3000, 3000)), "WEBP"),
    ],
    ids=["rgb", "grey-16", "alpha-16", "progressive-cmyk", "webp"],
)
def test_a_picture_takes_no_more_than_is_asked_for_it(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "1.jpg").write_bytes(picture)
    with allowed(Allowance()) as allowance:
        allowance.give_back = lambda nbytes: None  # type: ignore[method-assign]
        load_picture(tmp_path / "1.jpg")
    said, peak = _peak(tmp_path, picture, count=1, limit=10**9)
    assert said == "1"
    assert peak < allowance.taken


def test_many_large_pictures_are_refused_before_they_take_more_than_a_clip_may(tmp_path: Path) -> None:
    said, peak = _peak(tmp_path, blank(3000), count=10, limit=160_000_000)
    assert said.startswith("takes 0.2 GB of memory to decode: more than the 0.2 GB that a clip may take")
    assert peak < 160_000_000


@pytest.mark.slow
def test_pictures_of_64_million_pixels_stay_below_a_gigabyte(tmp_path: Path) -> None:
    said, peak = _peak(tmp_path, blank(7990), count=10, limit=10**9)
    assert "more than the 1.0 GB that a clip may take" in said
    assert peak < 10**9


def _samples_to_damage() -> dict[str, bytes]:
    natural = _natural()
    indexes = RNG.integers(0, 4, (32, 32), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "baseline": _saved(natural, "JPEG", exif=exif),
        "progressive": _saved(natural, "JPEG", progressive=True),
        "cmyk": _saved(Image.fromarray(natural).convert("CMYK"), "JPEG"),
        "rgb": png(natural),
        "grey-16": png(RNG.integers(0, 65536, (32, 32), np.uint16)),
        "alpha": png(RNG.integers(0, 256, (32, 32, 4), np.uint8)),
        "palette": png(
            indexes, colour_type=PALETTE, extra=_palette(RNG.integers(0, 256, (4, 3), np.uint8), b"\xff\0\x80")
        ),
        "webp": _saved(natural, "WEBP"),
        "bmp": _saved(natural, "BMP"),
    }


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("kind", _samples_to_damage())
def test_damaged_pictures_give_pixels_of_the_right_shape_or_an_error_that_names_the_file(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = _samples_to_damage()[kind]
    rng = np.random.default_rng(list(kind.encode()))
    path = tmp_path / "1.jpg"
    for turn in range(150):
        content = bytearray(whole)
        first, second = (int(place) for place in rng.integers(0, len(whole), 2))
        if turn % 3 == 0:
            del content[first:]
        elif turn % 3 == 1:
            content[first : first + 8], content[second : second + 8] = content[second : second + 8], b"\xff" * 8
        else:
            for place in rng.integers(0, min(len(whole), 700), 3):
                content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        for read in (check_picture, load_picture):
            got, named = None, path
            try:
                got = read(path)
            except MediaFileError as error:
                named = error.path
            assert named == path
            if isinstance(got, np.ndarray):
                assert (got.dtype, got.ndim, got.shape[2]) == (np.uint8, 3, 3)
    assert capfd.readouterr() == ("", "")


def test_tags_that_nobody_reads_raise_no_warning(tmp_path: Path) -> None:
    tag = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 3, 9000, 60)
    content = _saved(_natural(), "JPEG", exif=b"Exif\0\0" + tag)
    (tmp_path / "1.jpg").write_bytes(content)
    code = (
        "import sys, pathlib; from mettle_cache.datasets.media.pixels import check_picture; "
        "print(check_picture(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "1.jpg")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("PictureHeader(turned=False, transparent=False)\n", "")
