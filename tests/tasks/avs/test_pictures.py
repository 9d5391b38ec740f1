"""Masks and contact sheets, pixel by pixel."""

import io

import numpy as np
from PIL import Image

from mettle_cache.tasks.avs.pictures import GAP, PREDICTION, TILE, TRUTH, SheetVideo, contact_sheet, mask_png, overlay

LEFT = np.zeros((224, 224), bool)
LEFT[:, :112] = True


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_mask_is_an_8_bit_png_of_0_and_255():
    picture = Image.open(io.BytesIO(mask_png(LEFT)))
    assert (picture.mode, picture.format) == ("L", "PNG")
    assert np.array_equal(np.asarray(picture) == 255, LEFT)
    assert set(np.unique(picture)) == {0, 255}


def test_an_overlay_tints_the_foreground_alone():
    frame = np.full((60, 80, 3), 100, np.uint8)
    tile = overlay(frame, LEFT, TRUTH)
    assert tile.shape == (TILE, TILE, 3)
    assert (tile[:, TILE // 2 :] == 100).all()
    expected = [int(0.45 * 100 + 0.55 * channel) for channel in TRUTH]
    assert np.abs(tile[:, : TILE // 2].astype(int) - expected).max() <= 1


def test_a_sheet_has_truth_above_prediction_and_a_column_a_frame():
    frames = [np.full((224, 224, 3), 10 * k, np.uint8) for k in range(3)]
    videos = [SheetVideo(frames, np.stack([LEFT] * 3), np.stack([~LEFT] * 3))] * 2
    sheet = decode(contact_sheet(videos))
    step = TILE + GAP
    assert sheet.shape == (4 * step + GAP, 3 * step + GAP, 3)
    for row in range(4):
        colour, mask = ((TRUTH, LEFT), (PREDICTION, ~LEFT))[row % 2]
        for column, frame in enumerate(frames):
            top, left = GAP + row * step, GAP + column * step
            assert np.array_equal(sheet[top : top + TILE, left : left + TILE], overlay(frame, mask, colour))
    assert (sheet[:GAP] == 255).all()


def test_a_video_may_have_fewer_frames_than_another():
    short = SheetVideo([None], LEFT[None], LEFT[None])
    long = SheetVideo([None] * 2, np.stack([LEFT] * 2), np.stack([LEFT] * 2))
    sheet = decode(contact_sheet([short, long]))
    assert (sheet[GAP : GAP + TILE, 2 * GAP + TILE :] == 255).all()
