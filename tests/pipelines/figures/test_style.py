"""Every figure as a printed page needs it: one column wide, 7 points and more, nothing cut off, nothing overlapping."""

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mettle_cache.pipelines.figures.style import (
    COLUMN_MM,
    DOTS_PER_INCH,
    TEXT_POINTS,
    arrange,
    figure_bytes,
    legend_layout,
    new_figure,
    no_picture,
    save_figure,
    shorten,
    styled,
)
from tests.pipelines.figures.canvas import drawn_texts, overlapping
from tests.pipelines.figures.examples import FIGURES


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    """A figure's name, the figure, its texts with their boxes, and the canvas' size."""
    figure = FIGURES[request.param]()
    with pytest.MonkeyPatch.context() as patch:
        arrange(figure)
        return request.param, figure, *drawn_texts(figure, patch)


def test_texts_are_legible_whole_and_apart(drawn):
    _, figure, texts, (width, height) = drawn
    assert figure.get_figwidth() * 25.4 == pytest.approx(COLUMN_MM)
    assert texts
    assert {text.get_text(): text.get_fontsize() for text, _ in texts if text.get_fontsize() < TEXT_POINTS} == {}
    # half a pixel of an edge is rounding
    outside = [
        text.get_text()
        for text, box in texts
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]
    assert outside == []
    assert overlapping(texts) == []


def test_axes_are_labelled(drawn):
    name, figure, texts, _ = drawn
    shown = {text.get_text() for text, _ in texts}
    # pictures have no axes to label, a timeline's lanes are named by their ticks
    wanted = {"timelines": 1}.get(name, 0 if name.endswith("_sheet") or name in ("attention_maps", "mask_grid") else 2)
    labels = [axis.get_xlabel() for axis in figure.axes] + [axis.get_ylabel() for axis in figure.axes]
    labels += [figure.get_supxlabel(), figure.get_supylabel()]
    assert len({label for label in labels if label and label in shown}) >= wanted


def test_a_figure_gives_the_same_bytes_each_time():
    first = figure_bytes(FIGURES["learning_curves"](), "svg")
    with matplotlib.rc_context({"svg.hashsalt": "another", "svg.fonttype": "none"}):
        again = figure_bytes(FIGURES["learning_curves"](), "svg")
    assert first == again
    assert b"<dc:date>" not in first
    assert b"Matplotlib v" not in first


def test_both_formats_are_written_at_their_size(tmp_path):
    @styled
    def draw():
        figure = new_figure(30)
        figure.subplots().plot([0, 1], label="a")
        return figure

    written = save_figure(draw(), tmp_path / "new", "ave-curve")
    assert [path.name for path in written] == ["ave-curve.png", "ave-curve.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["ave-curve.png", "ave-curve.svg"]
    with Image.open(written[0]) as picture:
        assert picture.size == pytest.approx((COLUMN_MM / 25.4 * DOTS_PER_INCH, 30 / 25.4 * DOTS_PER_INCH), abs=1)
        assert "Software" not in picture.info
    assert written[1].read_bytes() == figure_bytes(draw(), "svg")


def test_a_name_with_dollar_signs_is_no_formula():
    @styled
    def draw():
        figure = new_figure(30)
        axis: Axes = figure.subplots()
        axis.set_title("lcd.$k$_{visual")
        return figure

    assert figure_bytes(draw(), "svg")


def test_styles_of_the_caller_stay_outside():
    with matplotlib.rc_context({"font.size": 40}):
        figure = FIGURES["data_curves"]()
        assert matplotlib.rcParams["font.size"] == 40
    assert figure.axes[0].xaxis.label.get_fontsize() == TEXT_POINTS


def test_text_is_cut_with_an_ellipsis():
    assert shorten("accuracy", 8) == "accuracy"
    assert shorten("accuracy", 5) == "accu…"
    assert shorten("a long one", 3) == "a…"
    assert legend_layout(["k1", "k4"]) == (2, ["k1", "k4"])
    assert legend_layout(["k1"] * 7)[0] == 3
    assert legend_layout(["k1", "k" * 20, "k3"]) == (2, ["k1", "k" * 20, "k3"])
    assert legend_layout(["k" * 99, "k2"]) == (1, ["k" * 51 + "…", "k2"])
    assert np.unique(no_picture()).size == 1
