"""What a reader sees of a figure: the texts that are drawn, and where."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def drawn_texts(figure, monkeypatch):
    """Every text that is drawn of an arranged figure, with its box in pixels, and the canvas' own size."""
    seen = {}
    draw = Text.draw

    def noting(text, renderer, *arguments, **options):
        if text.get_visible() and text.get_text().strip():
            seen[id(text)] = (text, text.get_window_extent(renderer))
        return draw(text, renderer, *arguments, **options)

    canvas = FigureCanvasAgg(figure)
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        canvas.draw()
    return list(seen.values()), figure.bbox.bounds[2:]


def overlapping(boxes, *, by=1.0):
    """Pairs of texts whose boxes share more than ``by`` pixels in both directions."""
    return [
        (one.get_text(), other.get_text())
        for place, (one, box) in enumerate(boxes)
        for other, other_box in boxes[place + 1 :]
        if min(box.x1, other_box.x1) - max(box.x0, other_box.x0) > by
        and min(box.y1, other_box.y1) - max(box.y0, other_box.y0) > by
    ]
