"""The best epoch of a history, and the table of its epochs."""

import csv
import io

import pytest

from mettle_cache.pipelines.train.history import History, history_table


def history_of(scores):
    history = History()
    return history, [history.add({"epoch": number + 1}, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "best", "epoch"),
    [
        ([50.0, 70.0, 70.0, 60.0], [True, True, True, False], 3),
        ([0.0, -1.0], [True, False], 1),
        ([None, None, None], [True, True, True], 3),
    ],
)
def test_the_best_epoch_is_the_latest_of_the_highest_and_without_scores_the_last(scores, best, epoch):
    history, was_best = history_of(scores)
    assert was_best == best
    assert (history.epochs, history.best_epoch, history.best_score) == (len(scores), epoch, scores[epoch - 1])


def test_a_history_without_epochs_has_no_best():
    history, _ = history_of([])
    assert (history.epochs, history.best_epoch, history.best_score) == (0, 0, None)


def test_the_table_holds_the_rows():
    rows = [{"epoch": 1, "loss": 2.5, "val_accuracy": None}, {"epoch": 2, "loss": 1.25, "val_accuracy": 50.0}]
    assert list(csv.DictReader(io.StringIO(history_table(rows).decode()))) == [
        {"epoch": "1", "loss": "2.5", "val_accuracy": ""},
        {"epoch": "2", "loss": "1.25", "val_accuracy": "50.0"},
    ]
