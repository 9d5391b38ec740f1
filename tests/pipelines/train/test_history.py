"""The best epoch of a history, and what a run's folder records of it."""

import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mettle_cache.pipelines.train.history import History, RunLog
from mettle_cache.pipelines.train.run_folder import RunFolder


def history_of(scores):
    history = History()
    return history, [history.add({"epoch": number + 1}, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "best", "epoch"),
    [
        ([50.0, 70.0, 70.0, 60.0], [True, True, False, False], 2),
        ([0.0, -1.0], [True, False], 1),
        ([None, None, None], [True, True, True], 3),
    ],
)
def test_the_best_epoch_is_the_first_of_the_highest_and_without_scores_the_last(scores, best, epoch):
    history, was_best = history_of(scores)
    assert was_best == best
    assert (history.epochs, history.best_epoch, history.best_score) == (len(scores), epoch, scores[epoch - 1])


def test_a_history_without_epochs_has_no_best():
    history, _ = history_of([])
    assert (history.epochs, history.best_epoch, history.best_score) == (0, 0, None)


def test_both_records_hold_the_rows(tmp_path):
    rows = [{"epoch": 1, "loss": 2.5, "val_accuracy": None}, {"epoch": 2, "loss": 1.25, "val_accuracy": 50.0}]
    folder = RunFolder(tmp_path)
    with RunLog(folder, start_step=0) as log:
        log.step({"event": 2.0, "avps": 0.5}, step=0)
        log.epoch(rows[:1], step=1)
        log.epoch(rows, step=2)
    with folder.metrics.open() as opened:
        table = list(csv.DictReader(opened))
    assert table == [
        {"epoch": "1", "loss": "2.5", "val_accuracy": ""},
        {"epoch": "2", "loss": "1.25", "val_accuracy": "50.0"},
    ]
    events = EventAccumulator(str(folder.events)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(0, 2.5)]
    assert [(event.step, event.value) for event in events.Scalars("epoch/loss")] == [(1, 2.5), (2, 1.25)]
    assert [(event.step, event.value) for event in events.Scalars("epoch/val_accuracy")] == [(2, 50.0)]


def test_events_of_steps_that_are_run_again_are_hidden(tmp_path):
    folder = RunFolder(tmp_path)
    for start, losses in ((0, (3.0, 2.0, 9.0)), (2, (1.0,))):
        with RunLog(folder, start_step=start) as log:
            for number, loss in enumerate(losses):
                log.step({"loss": loss}, step=start + number)
    events = EventAccumulator(str(folder.events)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_nothing_is_made_before_there_is_something_to_record(tmp_path):
    with RunLog(RunFolder(tmp_path), start_step=0):
        pass
    assert list(tmp_path.iterdir()) == []
