"""Sheets of pictures that show what a head predicts for some samples of a split, beside what is annotated.

The samples are eight, evenly spread over the ranks of what each scores alone in the task's metric: the best and the
worst are among them. The same predictions give the same sheet.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from mettle_cache.pipelines.evaluate.sample_scores import spread_over_ranks
from mettle_cache.pipelines.figures.compute.events import read_events
from mettle_cache.pipelines.figures.compute.mask_grid import unpack_mask
from mettle_cache.pipelines.figures.compute.timelines import clip_timeline
from mettle_cache.pipelines.figures.mask_sheet import SheetVideo, draw_mask_sheet
from mettle_cache.pipelines.figures.question_sheet import MOST_ANSWERS, AskedQuestion, draw_question_sheet
from mettle_cache.pipelines.figures.style import figure_bytes, shorten
from mettle_cache.pipelines.figures.timelines import draw_timelines
from mettle_cache.tasks.protocol import Frames, Predictions, Task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource

SHEET_SAMPLES = 8
_RULE_LETTERS, _CLIP_LETTERS = 40, 32


@dataclass(frozen=True, kw_only=True)
class SheetSamples:
    """The samples of one sheet: their ``rows``, ``predictions`` and what each scores alone, in per cent.

    ``table`` holds these predictions beside their targets; ``rule`` says how the samples were chosen.
    """

    task: Task
    samples: pa.Table
    rows: Sequence[int]
    predictions: Predictions
    table: pa.Table
    scores: Sequence[float]
    rule: str


def sheet_files(
    name: str, task: Task, store: TokenSource, split: str, rows: Sequence[int], predictions: Predictions, frames: Frames
) -> Iterator[tuple[str, bytes]]:
    """The sheet of the task called ``name``, as a PNG file's name and content; nothing for a task that has none.

    ``predictions`` are those of the samples ``rows``, all of a split.
    """
    if name not in SHEETS:
        return
    file, draw = SHEETS[name]
    alone = task.sample_scores(predictions, rows)
    places = spread_over_ranks(alone, SHEET_SAMPLES)
    chosen, kept = [rows[place] for place in places], {name: array[places] for name, array in predictions.items()}
    metric = task.metric.replace("_", " ")
    sheet = SheetSamples(
        task=task,
        samples=store.samples.take(pa.array(chosen, pa.int64())),
        rows=chosen,
        predictions=kept,
        table=task.prediction_table(kept, chosen),
        scores=[float(alone[place]) for place in places],
        rule=f"{store.dataset} {split}: {len(places)} of {len(rows)} samples, from best to worst by {metric}",
    )
    yield file, figure_bytes(draw(sheet, frames), "png")


def event_sheet(sheet: SheetSamples, frames: Frames) -> Figure:
    """Timelines of events, annotated and predicted."""
    events = read_events(sheet.table)
    clips = [
        clip_timeline(_title(clip, score), [events], place)
        for place, (clip, score) in enumerate(zip(events.samples, sheet.scores, strict=True))
    ]
    how = "A bar is as high as the probability, the number is the highest; outlines are what is predicted"
    rule = "\n".join(textwrap.wrap(f"{sheet.rule}. {how}", _RULE_LETTERS))
    return draw_timelines(clips, ["predicted"], rule=rule, numbers=True)


def mask_sheet(sheet: SheetSamples, frames: Frames) -> Figure:
    """Truth and prediction over frames."""
    videos = []
    for place, (row, score) in enumerate(zip(sheet.rows, sheet.scores, strict=True)):
        truth = sheet.task.targets([row])[0].numpy().astype(np.bool_)
        clips = sheet.samples["clips"][place].as_py()[: len(truth)]
        videos.append(
            SheetVideo(
                title=_title(sheet.samples["clip"][place].as_py(), score),
                pictures=tuple(frames(clip) for clip in clips),
                truth=truth,
                predicted=np.stack([unpack_mask(mask, truth.shape[1:]) for mask in sheet.predictions["masks"][place]]),
                ious=tuple((100 * sheet.predictions["iou"][place]).tolist()),
            )
        )
    return draw_mask_sheet(videos, rule=sheet.rule + _missing([video.pictures for video in videos]))


def question_sheet(sheet: SheetSamples, frames: Frames) -> Figure:
    """Questions with the likeliest answers, and the annotated one."""
    answers = json.loads(sheet.table.schema.metadata[b"answers"])
    questions = []
    for row in sheet.table.to_pylist():
        ranked = sorted(zip(answers, row["scores"], strict=True), key=lambda pair: -pair[1])
        shown = ranked[: MOST_ANSWERS - 1]
        shown += [pair for pair in ranked[MOST_ANSWERS - 1 :] if pair[0] == row["answer"]]
        questions.append(
            AskedQuestion(
                title=f"{row['clip']}, {row['modality']} {row['kind']}",
                question=row["question"],
                answers=tuple(shown),
                right=row["answer"],
                picture=frames(row["clip"]),
            )
        )
    return draw_question_sheet(questions, rule=sheet.rule + _missing([[one.picture] for one in questions]))


def _title(clip: str, score: float) -> str:
    return f"{shorten(clip, _CLIP_LETTERS)}, {score:.0f} %"


def _missing(pictures: Sequence[Sequence[object]]) -> str:
    """That there are no frames, where there is not one."""
    return "" if any(one is not None for some in pictures for one in some) else "; the frames are not at hand"


SHEETS: dict[str, tuple[str, Callable[[SheetSamples, Frames], Figure]]] = {
    "avel": ("timelines.png", event_sheet),
    "avvp": ("timelines.png", event_sheet),
    "avs": ("overlay.png", mask_sheet),
    "avqa": ("answers.png", question_sheet),
}
