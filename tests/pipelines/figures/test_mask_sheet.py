"""Sheets of masks: what is tinted how, which frames are shown, and what is written beside them."""

import numpy as np
from matplotlib.colors import to_rgb

from mettle_cache.pipelines.figures.mask_sheet import LEGEND, SheetVideo, draw_mask_sheet, overlay
from mettle_cache.pipelines.figures.style import BLUE, VERMILION, YELLOW

TRUTH = np.array([[True, True], [False, False]])
PREDICTED = np.array([[True, False], [True, False]])


def test_an_overlay_tells_hits_misses_and_excess_and_leaves_the_rest():
    picture = np.full((6, 8, 3), 100, np.uint8)
    both, missed, excess = (255 * np.array(to_rgb(colour)) for colour in (YELLOW, BLUE, VERMILION))
    for ground, given in ((100, picture), (0xDD, None)):
        tinted = overlay(given, TRUTH, PREDICTED)
        expected = 0.4 * ground + 0.6 * np.array([[both, missed], [excess, [ground] * 3]])
        np.testing.assert_allclose(tinted, expected, atol=0.51)


def test_each_video_has_its_title_and_the_iou_of_every_frame():
    masks = np.stack([TRUTH] * 7)
    long = SheetVideo(
        title="dog/clip-1, 70 %", pictures=(None,) * 7, truth=masks, predicted=masks, ious=(1, 2, 3, 4, 5, 6, 7)
    )
    short = SheetVideo(title="cat/clip-2, 30 %", pictures=(None,), truth=masks[:1], predicted=masks[:1], ious=(30.4,))
    figure = draw_mask_sheet([long, short], rule="2 of 9 videos")
    page = figure.axes[0]
    texts = [text.get_text() for text in page.texts]
    assert texts[0] == "2 of 9 videos"
    # of seven frames five, evenly spread
    shown = [f"IoU {number} %" for number in (1, 3, 4, 5, 7)]
    assert texts[1:] == ["dog/clip-1, 70 %", *shown, "cat/clip-2, 30 %", "IoU 30 %"]
    assert len(page.images) == 6
    assert [text.get_text() for text in page.get_legend().get_texts()] == [name for name, _ in LEGEND]
