"""Which lanes a clip's timeline has, and which clips are shown."""

import numpy as np

from mettle_cache.pipelines.figures.compute.events import BOTH, SplitEvents
from mettle_cache.pipelines.figures.compute.timelines import MOST_LANES, clip_timeline, group_timelines
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent


def events(annotated, predicted, modality="audio", scores=None):
    names = tuple(f"c{number}" for number in range(annotated.shape[1]))
    known = {} if scores is None else {modality: scores[None]}
    return SplitEvents(names, ("a",), {modality: annotated}, {modality: predicted}, known)


def test_lanes_are_what_is_annotated_then_what_is_found():
    annotated, first, second = np.zeros((3, 1, 9, 4), bool)
    annotated[0, [5, 7], 1] = True
    first[0, [5, 0], :2] = True
    second[0, 2, :3] = True
    scores = np.arange(36).reshape(9, 4) / 36
    timeline = clip_timeline("t", [events(annotated, first, scores=scores), events(annotated, second)], 0)
    assert [lane.label for lane in timeline.lanes] == ["audio: c5", "audio: c7", "audio: c2", "audio: c0"]
    lane = timeline.lanes[0]
    np.testing.assert_array_equal(lane.predicted[0], first[0, 5])
    np.testing.assert_array_equal(lane.scores[0], scores[5])
    assert lane.scores[1] is None
    assert timeline.left_out == 0


def test_lanes_for_which_there_is_no_room_are_counted():
    annotated = np.ones((1, MOST_LANES + 3, 4), bool)
    timeline = clip_timeline("t", [events(annotated, annotated, BOTH)], 0)
    assert [lane.label for lane in timeline.lanes] == [f"c{number}" for number in range(MOST_LANES)]
    assert timeline.left_out == 3


def test_clips_are_the_first_runs_best_median_and_worst(trained_run, linear_run, tiny_ave):
    runs = [TrainedRun.load(path, path.name, store=tiny_ave) for path in (trained_run, linear_run)]
    group = RunGroup(runs, "test", None, Silent())
    timelines = group_timelines(group, 2)
    right = (group.predictions(0)["labels"] == group.task.targets(group.split.rows).numpy()).mean(1) * 100
    shown = [timeline.title.split(",")[0] for timeline in timelines]
    percent = [float(timeline.title.split(", ")[1].split(" %")[0]) for timeline in timelines]
    assert shown == ["best", "median", "worst"]
    assert percent == [round(right.max()), round(np.median(right)), round(right.min())]
    for timeline in timelines:
        for lane in timeline.lanes:
            assert len(lane.predicted) == len(lane.scores) == 2
            assert all(((scores >= 0) & (scores <= 1)).all() for scores in lane.scores)
