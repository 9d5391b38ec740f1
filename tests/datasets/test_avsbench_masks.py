from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mettle_cache.datasets.avsbench_masks import Mask, pack_mask, read_mask
from mettle_cache.datasets.media.fault import MediaFileError
from tests.datasets.avsbench_files import SIDE, rectangle
from tests.datasets.media.picture_files import PALETTE, chunk, png

DRAWN = rectangle(1)


def _read(tmp_path: Path, content: bytes) -> Mask:
    (tmp_path / "mask.png").write_bytes(content)
    return read_mask(tmp_path / "mask.png")


def _values(value: int, dtype: type = np.uint8, channels: int = 1) -> np.ndarray:
    """``value`` where something is drawn, and 0 elsewhere: ``[224, 224, channels]``."""
    return np.repeat(DRAWN[..., None] * dtype(value), channels, axis=2)


def _rgba(colour: np.ndarray | int, alpha: np.ndarray | int) -> np.ndarray:
    values = np.zeros((SIDE, SIDE, 4), np.uint8)
    values[..., :3], values[..., 3] = colour, alpha
    return values


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [1, 128, 255])
def test_whatever_is_not_black_is_foreground(tmp_path: Path, value: int, channels: int) -> None:
    assert _read(tmp_path, png(_values(value, channels=channels))) == Mask(pack_mask(DRAWN), 2)


def test_dark_blue_is_not_black(tmp_path: Path) -> None:
    """Its brightness rounds to 0."""
    values = _values(1, channels=3)
    values[..., :2] = 0
    assert _read(tmp_path, png(values)).bits == pack_mask(DRAWN)


@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_a_mask_of_16_bits_is_read_at_its_own_depth(tmp_path: Path, value: int) -> None:
    assert _read(tmp_path, png(_values(value, np.uint16))) == Mask(pack_mask(DRAWN), 2)


@pytest.mark.parametrize("white", [np.uint8(255), np.uint8(0)])
def test_a_shape_in_the_alpha_channel_alone_is_refused(tmp_path: Path, white: np.uint8) -> None:
    drawn_in_alpha = _values(255, channels=2)
    drawn_in_alpha[..., 0] = white
    for content in (png(_rgba(white, DRAWN * np.uint8(255))), png(drawn_in_alpha)):
        with pytest.raises(MediaFileError, match=r"mask.png: .*same all over, and its shape is in the alpha channel"):
            _read(tmp_path, content)


def test_an_alpha_channel_that_says_what_the_colours_say_is_read(tmp_path: Path) -> None:
    for alpha in (DRAWN * np.uint8(255), 255, 128):
        content = png(_rgba(_values(255), alpha))
        assert _read(tmp_path, content).bits == pack_mask(DRAWN)


def test_an_alpha_channel_that_contradicts_the_colours_is_refused(tmp_path: Path) -> None:
    half = DRAWN.copy()
    half[:50] = False
    for alpha in (half * np.uint8(255), 0):
        with pytest.raises(MediaFileError, match=r"it is transparent where its colour is not black"):
            _read(tmp_path, png(_rgba(_values(255), alpha)))


def test_a_palette_goes_by_its_colours(tmp_path: Path) -> None:
    indexes = DRAWN.astype(np.uint8)
    red_and_black = chunk(b"PLTE", bytes([128, 0, 0, 0, 0, 0]))
    assert _read(tmp_path, png(indexes, colour_type=PALETTE, extra=red_and_black)).bits == pack_mask(~DRAWN)
    all_black = chunk(b"PLTE", bytes(6))
    with pytest.raises(MediaFileError, match=r"its palette gives one colour to all of its indexes"):
        _read(tmp_path, png(indexes, colour_type=PALETTE, extra=all_black))


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_mask_may_be_empty_or_full(tmp_path: Path, value: int, channels: int) -> None:
    values = np.full((SIDE, SIDE, channels), value, np.uint8)
    if channels == 4:
        values[..., 3] = 255
    assert _read(tmp_path, png(values)) == Mask(pack_mask(np.full((SIDE, SIDE), value > 0)), 1)


def test_a_mask_without_black_does_not_say_what_its_background_is(tmp_path: Path) -> None:
    with pytest.raises(MediaFileError, match=r"it has 2 colours, and none of them is black"):
        _read(tmp_path, png(_values(127) + np.uint8(128)))


def test_every_pixel_that_is_not_quite_black_at_an_edge_counts(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(_values(255)[..., 0]).resize((100, 100)).resize((SIDE, SIDE)))
    mask = _read(tmp_path, png(smooth))
    assert mask.levels > 2
    assert mask.bits == pack_mask(smooth > 0)


def test_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(MediaFileError, match=r"is 225 x 224 pixels, not 224 x 224"):
        _read(tmp_path, png(np.zeros((224, 225), np.uint8))[:60])
