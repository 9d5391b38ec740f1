"""Timelines of some clips of a split: what is annotated, and what each run finds."""

from __future__ import annotations

from collections.abc import Sequence

from mettle_cache.pipelines.figures.compute.events import BOTH, SplitEvents, read_events
from mettle_cache.pipelines.figures.timelines import ClipTimeline, EventLane
from mettle_cache.pipelines.figures.trained import RunGroup

EXAMPLES = 3
MOST_LANES = 5


def group_timelines(group: RunGroup, runs: int) -> list[ClipTimeline]:
    """The clips on which the first run scores best, median and worst, with what the first ``runs`` predict.

    Titles tell what it scores there in the task's metric.

    Raises
    ------
    UsageError
        The task does not find events in segments.
    """
    rows = group.split.rows
    events = [
        read_events(trained.run.task.prediction_table(group.predictions(number), rows))
        for number, trained in enumerate(group.runs[:runs])
    ]
    places = group.examples(EXAMPLES)
    alone = group.task.sample_scores(group.predictions(0), rows)
    ranks = ("best", "median", "worst") if len(places) == EXAMPLES else ("best", "worst")
    return [
        clip_timeline(f"{rank}, {alone[place]:.0f} %: {events[0].samples[place]}", events, place)
        for rank, place in zip(ranks, places, strict=False)
    ]


def clip_timeline(title: str, events: Sequence[SplitEvents], place: int) -> ClipTimeline:
    """The timeline of one sample by its place; ``events`` are by run.

    A lane for each modality and category that is annotated or that any run predicts, annotated ones first, at most
    :data:`MOST_LANES`; ``ClipTimeline.left_out`` counts the others.
    """
    first = events[0]
    found: list[tuple[bool, int, EventLane]] = []
    for modality, annotated in first.annotated.items():
        for category, name in enumerate(first.categories):
            truth = annotated[place, category]
            predicted = [of_run.predicted[modality][place, category] for of_run in events]
            if not truth.any() and not any(one.any() for one in predicted):
                continue
            sure = [of_run.scores[modality][place, category] if of_run.scores else None for of_run in events]
            label = name if modality == BOTH else f"{modality}: {name}"
            most = sum(int(one.sum()) for one in predicted)
            found.append((not truth.any(), -most, EventLane(label, truth, tuple(predicted), tuple(sure))))
    lanes = [lane for _, _, lane in sorted(found, key=lambda entry: entry[:2])]
    return ClipTimeline(title, tuple(lanes[:MOST_LANES]), left_out=max(len(lanes) - MOST_LANES, 0))
