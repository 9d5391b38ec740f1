"""How figures look and are written: one column of a page wide, text of 7 points and more, colours that all can tell.

Colours of lines and marks are those of Okabe and Ito (2008), colour maps are cividis (Nuñez et al., 2018). Figures are
drawn without pyplot, so that no state is shared and nothing is kept open.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mettle_cache.store.writing.durable import make_folder, write_files

Format = Literal["png", "svg"]

COLUMN_MM = 85.0
TEXT_POINTS = 7.0
DOTS_PER_INCH = 300
BLUE, VERMILION, GREEN, ORANGE, YELLOW = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#F0E442"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#000000")
GREY = "#999999"
PALE = "#DDDDDD"
MARKERS = ("o", "^", "s", "D")
COLOUR_MAP = "cividis"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": TEXT_POINTS,
    "axes.titlesize": TEXT_POINTS,
    "axes.labelsize": TEXT_POINTS,
    "xtick.labelsize": TEXT_POINTS,
    "ytick.labelsize": TEXT_POINTS,
    "legend.fontsize": TEXT_POINTS,
    "figure.titlesize": TEXT_POINTS,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.2,
    "ytick.minor.size": 1.2,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 1.4,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.25,
    "figure.constrained_layout.h_pad": 0.035,
    "figure.constrained_layout.w_pad": 0.03,
    # a name may hold a dollar sign, and then means that
    "text.parse_math": False,
    "svg.fonttype": "path",
    # ids within a file follow from its content
    "svg.hashsalt": "mettle",
}

# columns of a legend, and the letters that each has room for
_LEGENDS = ((3, 15), (2, 25), (1, 52))

# a decorator of everything that draws: sizes are those of STYLE, whatever the caller has set
styled = rc_context(STYLE)


def new_figure(height_mm: float, *, pictures: bool = False) -> Figure:
    """An empty figure one column wide, whose parts are arranged when it is drawn; ``pictures`` stand close together."""
    size = (COLUMN_MM / 25.4, height_mm / 25.4)
    return Figure(figsize=size, layout="compressed" if pictures else "constrained")


def new_page(height_mm: float) -> tuple[Figure, Axes]:
    """A figure one column wide that one axes fills, which counts millimetres from the upper left corner.

    What is drawn on it stays where it is put: dozens of small axes would take seconds to arrange.
    """
    figure = Figure(figsize=(COLUMN_MM / 25.4, height_mm / 25.4))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, COLUMN_MM), ylim=(height_mm, 0))
    page.set_axis_off()
    return figure, page


def show_picture(page: Axes, picture: NDArray[np.uint8], left: float, top: float, width: float, height: float) -> None:
    """Put a picture, RGB ``[H, W, 3]``, on a page, stretched to these millimetres."""
    extent = (left, left + width, top + height, top)
    page.imshow(picture, extent=extent, aspect="auto", interpolation="nearest")


def legend_row(page: Axes, top: float, entries: Sequence[tuple[str, str]]) -> None:
    """Patches of colours and their names in one line of a page."""
    handles = [Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=name) for name, colour in entries]
    place = (0.5, 1 - top / page.get_ylim()[0])
    page.legend(handles=handles, loc="upper center", bbox_to_anchor=place, ncols=len(handles), borderpad=0)


@styled
def arrange(figure: Figure) -> None:
    """Give the parts of a figure their places, once: each further drawing would move them a little."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        for axis in figure.axes:
            # how many ticks there are depends on it, and is looked up whenever the figure is drawn, in any style
            axis.tick_params(labelsize=TEXT_POINTS)
        # ticks may change with the room that they are given, and what they need with them
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")


@styled
def figure_bytes(figure: Figure, kind: Format) -> bytes:
    """A figure as a file's content; the same figure gives the same bytes."""
    arrange(figure)
    buffer = io.BytesIO()
    # neither the date nor the version of the program that drew
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg``, both or neither.

    Raises
    ------
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    make_folder(folder)
    formats: Sequence[Format] = ("png", "svg")
    files = [(folder / f"{name}.{kind}", [figure_bytes(figure, kind)]) for kind in formats]
    write_files(files)
    return [path for path, _ in files]


def no_picture() -> NDArray[np.uint8]:
    """One pale pixel, in the place of a frame that is not at hand."""
    return np.full((1, 1, 3), int(PALE[1:3], 16), np.uint8)


def shorten(text: str, letters: int) -> str:
    """At most so many letters, the last of them an ellipsis where some are left out."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def legend_layout(labels: Sequence[str]) -> tuple[int, list[str]]:
    """How many columns a legend has across the figure, at most three, and its labels as they fit into these."""
    longest = max(map(len, labels), default=0)
    columns, letters = next((fit for fit in _LEGENDS if longest <= fit[1]), _LEGENDS[-1])
    return min(columns, len(labels)), [shorten(label, letters) for label in labels]
