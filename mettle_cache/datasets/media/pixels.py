"""One picture file: what it is by its bytes, what decoding it takes, and its pixels.

A name proves nothing: photos of the web are WebP under the name of a JPEG, and a failed download is a web page. Nothing
is guessed from a header either: pictures whose values can be meant in two ways are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, features

from mettle_cache.content import describe_content
from mettle_cache.datasets.media.allowance import lent, take
from mettle_cache.datasets.media.fault import MediaFileError, require_file

MAX_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded: a few kilobytes can ask for gigabytes."""
MAX_BYTES = 8 * MAX_PIXELS
"""No picture of so many pixels is larger, even uncompressed."""
_MAX_SCANS = 500
"""Scans of a progressive JPEG; encoders write about ten, and each takes the time of a whole picture."""

POLICY = "Pillow, RGB, full size, no draft mode, EXIF orientation ignored, alpha ignored, 16 bits by their upper 8"

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_GREY16 = ("I;16", "I;16B", "I;16L", "I")
# bytes a pixel while it is decoded, beside the RGB array that is kept: Pillow's own picture, and copies on the way
_WORKING = {"1": 4, "L": 4, "I;16": 10, "I;16B": 10, "I": 14, "RGB": 8, "P": 12, "LA": 12, "RGBA": 12, "CMYK": 12}
_WEBP_CANVASES = 12
# Pillow's names for the upper bytes of each value, and for the lower ones in their place
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}

# Pillow reports broken tags that nobody reads here
warnings.filterwarnings("ignore", module=r"PIL\b", append=True)


@dataclass(frozen=True)
class PictureHeader:
    """``turned``: its EXIF asks for a turn or a mirror. ``transparent``: it has an alpha channel, or a palette's."""

    turned: bool
    transparent: bool


@dataclass(frozen=True)
class Pixels:
    """``values`` are ``[H, W]`` of grey, uint8 or uint16, or RGB ``[H, W, 3]``; ``alpha`` is uint8 ``[H, W]``.

    ``indexes`` are those of a palette, ``[H, W]``.
    """

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    indexes: NDArray[np.uint8] | None = None

    def hides_its_shape(self) -> bool:
        """Whether all that could be seen is drawn in the alpha channel, upon one colour."""
        return self.alpha is not None and not is_one_colour(self.alpha) and is_one_colour(self.values)


def decoder_versions() -> dict[str, object]:
    """The libraries whose version can change a decoded pixel."""
    return {"libjpeg": features.version("libjpeg_turbo") or features.version("jpg")}


def load_picture(path: Path) -> NDArray[np.uint8]:
    """One picture as RGB ``[H, W, 3]``.

    Colours beneath transparent pixels are taken as they stand, as the published code does; grey of 16 bits by its upper
    8, as Pillow takes colours of 16 bits.

    Raises
    ------
    MediaFileError
        It is missing, no picture, damaged, too large, or one whose pixels can be meant in two ways.
    """
    with open_picture(path) as picture:
        kept = 3 * picture.width * picture.height
        take(path, kept)
        with lent(path, _working_bytes(picture)):
            pixels = decode_pixels(path, picture)
            if pixels.hides_its_shape():
                raise MediaFileError(path, "is one colour all over: what it shows is in its alpha channel")
            return _as_rgb(path, pixels.values)


def check_picture(path: Path) -> PictureHeader:
    """What can be told without decoding. Raises MediaFileError for a file that is no picture that can be read."""
    with open_picture(path) as picture:
        return PictureHeader(_is_turned(picture), picture.has_transparency_data)


@contextmanager
def open_picture(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The picture at ``path`` by its bytes, not decoded yet; whatever Pillow raises becomes a MediaFileError."""
    size = require_file(path).st_size
    if size > MAX_BYTES:
        raise MediaFileError(path, f"is {size >> 20} MB: more than any picture of {MAX_PIXELS} pixels")
    # another library may have set it, and the lost part of a cut picture would become grey
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with path.open("rb") as file:
            kind = _kind(path, file.read(64))
            file.seek(0)
            with kind(file) as picture:
                _refuse_unsafe(path, picture)
                yield picture
    except MediaFileError:
        raise
    except OSError as error:
        raise MediaFileError(path, f"cannot be decoded: {error.strerror or error}") from error
    except Exception as error:
        raise MediaFileError(path, f"cannot be decoded: {error or type(error).__name__}") from error


def decode_pixels(path: Path, picture: ImageFile.ImageFile) -> Pixels:
    """What is in an open picture, grey at its own depth. Raises MediaFileError, or what Pillow raises."""
    depth16 = any(str(tile.args) in _LOW_BYTES for tile in picture.tile)
    transparent = picture.has_transparency_data
    colours = len(picture.palette.palette) // 3 if picture.palette is not None else 256
    picture.load()
    if picture.mode in _GREY16:
        return Pixels(np.array(picture).astype(np.uint16))
    if picture.mode in ("1", "L"):
        return Pixels(np.array(picture.convert("L")))
    indexes = np.array(picture) if picture.mode == "P" else None
    if indexes is not None and indexes.max() >= colours:
        raise MediaFileError(path, f"has index {indexes.max()} of a palette of {colours} colours")
    if picture.mode == "LA":
        values = np.asarray(picture)
        return Pixels(values[..., 0], values[..., 1])
    if picture.mode in ("RGBA", "P") and transparent:
        values = np.asarray(picture.convert("RGBA"))
        pixels = Pixels(values[..., :3], values[..., 3], indexes=indexes)
    else:
        # one colour that is transparent adds nothing to the colours themselves
        picture.info.pop("transparency", None)
        pixels = Pixels(np.array(picture.convert("RGB")), indexes=indexes)
    if depth16 and not pixels.values.any():
        refuse_low_values(path, _low_bytes(path))
    return pixels


def refuse_low_values(path: Path, values: NDArray[Any]) -> None:
    """Refuse 16 bits a value of which only the lower 8 are in use. Raises MediaFileError."""
    if 0 < values.max() < 256:
        what = f"has 16 bits a value and none above {values.max()} of 65535: black, or 8 bits that were never scaled"
        raise MediaFileError(path, what)


def is_one_colour(values: NDArray[Any]) -> bool:
    """Whether all pixels ``[H, W]`` or ``[H, W, C]`` are the same."""
    return bool((values == values[:1, :1]).all())


def _kind(path: Path, head: bytes) -> type[ImageFile.ImageFile]:
    """Pillow's reader of the only kinds that are read: widespread, and decoded without another program."""
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if head.startswith(_PNG):
        return PngImagePlugin.PngImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        # Pillow sets up its canvases while it opens the file
        _refuse_size(path, *_webp_size(head))
        return WebPImagePlugin.WebPImageFile
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    raise MediaFileError(path, f"is {describe_content(head)}, not a JPEG, PNG, WebP or BMP picture")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in a WebP's first chunk: of one picture with or without loss, or of a canvas."""
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _refuse_unsafe(path: Path, picture: ImageFile.ImageFile) -> None:
    """Refuse a picture that is too large, that is several, or whose pixels can be meant in two ways."""
    _refuse_size(path, *picture.size)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise MediaFileError(path, f"is an animation of {frames} pictures: which one is meant is not known")
    if picture.mode not in _WORKING:
        raise MediaFileError(path, f"has pixels of Pillow's mode {picture.mode}, which are not read as colours here")
    if picture.mode == "P" and picture.palette is None:
        raise MediaFileError(path, "has indexes of a palette, and no palette")
    if picture.mode == "CMYK" and "adobe" not in picture.info:
        raise MediaFileError(path, "is CMYK without Adobe's marker: whether its inks are inverted is not known")
    if "progression" in picture.info and _scans(path) > _MAX_SCANS:
        raise MediaFileError(path, f"is a progressive JPEG of more than {_MAX_SCANS} scans")


def _refuse_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise MediaFileError(path, f"is {width} x {height}: empty, or more than {MAX_PIXELS} pixels")


def _scans(path: Path) -> int:
    """How often the marker that starts a scan occurs; inside a scan its first byte is never followed by its second."""
    return path.read_bytes().count(b"\xff\xda")


def _working_bytes(picture: ImageFile.ImageFile) -> int:
    each = _WORKING[picture.mode]
    if "progression" in picture.info:
        each += 2 * len(picture.getbands())  # all coefficients are kept until the last scan
    if picture.format == "WEBP":
        each += _WEBP_CANVASES
    return each * picture.width * picture.height


def _low_bytes(path: Path) -> NDArray[np.uint8]:
    """The lower bytes of a PNG of 16 bits a value, of which Pillow gives the upper."""
    with PngImagePlugin.PngImageFile(path) as picture:
        tile = picture.tile[0]
        picture.tile = [tile._replace(args=_LOW_BYTES[str(tile.args)])]
        return np.asarray(picture)[..., :3]


def _as_rgb(path: Path, values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint16:
        refuse_low_values(path, values)
        values = (values >> 8).astype(np.uint8)
    return np.ascontiguousarray(values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2))


def _is_turned(picture: ImageFile.ImageFile) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # noqa: BLE001 - damaged tags that nobody needs
        return False
