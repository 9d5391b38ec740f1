"""Pictures of an answer, by its task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mettle_cache.pipelines.predict.answer import Answer
from mettle_cache.pipelines.predict.looking import PLACES, SECONDS_HEARD, SECONDS_SEEN
from mettle_cache.pipelines.predict.windows import open_windows
from mettle_cache.store.writing.durable import make_folder, remove_files, write_file
from mettle_cache.tasks.avs.pictures import mask_png

_MASK, _MASKS = "{:06d}.png", f"{'[0-9]' * 6}.png"

# matplotlib takes a second to load, so what draws with it is imported where it is used


def draw_answer(answer: Answer, folder: Path) -> Iterator[Path]:
    """Draw what the answer's task shows; the files and folders that were written.

    Raises
    ------
    MediaFileError
        The media cannot be read any more.
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    match answer.head.recipe.task:
        case "avel" | "avvp":
            yield _draw_timeline(answer, folder / f"{answer.item.name}.png")
        case "avs":
            yield _overlay(answer, folder / f"{answer.item.name}.mp4")
        case "avqa":
            for number in range(len(answer.asked.questions)):
                yield _draw_look(answer, number, folder / f"{answer.item.name}-{number + 1}.png")


def write_masks(answer: Answer, folder: Path) -> Path:
    """A mask of 224 x 224 pixels for each second, ``000000.png`` and so on, black and white as AVSBench's own."""
    make_folder(folder)
    for second in range(answer.plan.total):
        write_file(folder / _MASK.format(second), mask_png(answer.mask(second)))
    # a longer video of the same name may have been answered before
    remove_files(path for path in folder.glob(_MASKS) if path.name >= _MASK.format(answer.plan.total))
    return folder


def _draw_timeline(answer: Answer, path: Path) -> Path:
    from mettle_cache.pipelines.figures.style import figure_bytes
    from mettle_cache.pipelines.predict.timeline import Lane, draw_timeline

    lanes = [Lane(label, found, scores) for label, found, scores in answer.lanes()]
    figure = draw_timeline(f"{answer.item.path.name}: {answer.head.recipe.name}", lanes, answer.plan.total)
    write_file(path, figure_bytes(figure, "png"))
    return path


def _overlay(answer: Answer, path: Path) -> Path:
    from mettle_cache.pipelines.predict.overlay import write_overlay

    write_overlay(answer.plan, answer.mask, path)
    return path


def _draw_look(answer: Answer, number: int, path: Path) -> Path:
    from mettle_cache.pipelines.figures.style import figure_bytes
    from mettle_cache.pipelines.predict.look_figure import LookedAt, draw_look

    predictions = answer.windows[0].predictions[number]
    last = [layer for layer in answer.head.task.layers if layer.modality == "visual"][-1]
    rows, columns = last.grid
    places = np.asarray(predictions[PLACES], np.float64)[:, -rows * columns :].reshape(-1, rows, columns)
    pictures = next(open_windows(answer.plan, answer.form)).pictures()
    shown = zip(answer.seconds, pictures, places, predictions[SECONDS_SEEN], predictions[SECONDS_HEARD], strict=True)
    seconds = [LookedAt(second, seen, where, float(a), float(b)) for second, seen, where, a, b in shown]
    row = answer.rows()[number]
    title = f"{row['question']}? {row['answer']} ({100 * row['probability']:.0f} %)"
    write_file(path, figure_bytes(draw_look(title, seconds), "png"))
    return path
