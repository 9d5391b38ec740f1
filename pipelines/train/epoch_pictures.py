"""Timelines, overlays or answers of a fixed few samples after an epoch, for the loggers.

They are drawn from the predictions that score the epoch, without the media, and only as often as drawing takes a small
share of the time: a training of seconds shows none, one whose epochs take minutes shows them after every epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from mettle_cache.pipelines.train.loggers.protocol import Picture
from mettle_cache.pipelines.train.sample_loader import Split
from mettle_cache.store.reading.token_source import TokenSource
from mettle_cache.tasks.protocol import Predictions, Task

SAMPLES = 3
SHARE = 0.02
"""Of a training's time, what drawing may take."""
EXPECTED_SECONDS = 0.5
"""What the first picture is thought to take, with what has to be imported for it."""


class EpochPictures:
    """Draws the sheet of the task called ``name``; a task that has none has no pictures.

    ``note`` is told, once, why there are none where drawing fails.
    """

    def __init__(self, name: str, task: Task, store: TokenSource, note: Callable[[str], None]) -> None:
        self._name = name
        self._task = task
        self._store = store
        self._note = note
        self._began = time.monotonic()
        self._spent, self._next = 0.0, EXPECTED_SECONDS
        self._failed = False

    def draw(self, predictions: Predictions, split: Split) -> dict[str, Picture]:
        """Pictures by name; none where it would take more than its share of the time now."""
        began = time.monotonic()
        if self._failed or self._spent + self._next > SHARE * (began - self._began):
            return {}
        try:
            pictures = self._draw(predictions, split)
        except Exception as error:  # noqa: BLE001 - a picture must not cost the training
            self._failed = True
            self._note(f"no pictures of epochs ({type(error).__name__}: {error}): the training goes on")
            return {}
        self._next = time.monotonic() - began
        self._spent += self._next
        return pictures

    def _draw(self, predictions: Predictions, split: Split) -> dict[str, Picture]:
        from mettle_cache.pipelines.evaluate.sheets import SHEETS, SheetSamples

        if self._name not in SHEETS:
            return {}
        places = sorted({int(place) for place in np.linspace(0, len(split.rows) - 1, SAMPLES)})
        rows = [split.rows[place] for place in places]
        kept = {name: array[places] for name, array in predictions.items()}
        sheet = SheetSamples(
            task=self._task,
            samples=self._store.samples.take(pa.array(rows, pa.int64())),
            rows=rows,
            predictions=kept,
            table=self._task.prediction_table(kept, rows),
            scores=self._task.sample_scores(kept, rows).tolist(),
            rule=f"{self._store.dataset} {split.name}: {len(rows)} of {len(split.rows)} samples, the same every epoch",
        )
        file, draw = SHEETS[self._name]
        return {f"{split.name}/{file.partition('.')[0]}": _pixels(draw(sheet, lambda clip: None))}


def _pixels(figure: object) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
