"""Event files as TensorBoard reads them, and disks that refuse them."""

import errno
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mettle_cache.errors import NoRoomError, StoreError
from mettle_cache.pipelines.train.events import EventLog


def scalars(folder, tag):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_tensorboard_reads_steps_and_epochs(tmp_path):
    with EventLog(tmp_path / "events", start_step=0) as log:
        log.step({"event": 2.0, "avps": 0.5}, step=0)
        log.epoch({"epoch": 1, "loss": 2.5, "val_accuracy": None}, step=1)
        log.epoch({"epoch": 2, "loss": 1.25, "val_accuracy": 50.0}, step=2)
    assert scalars(tmp_path / "events", "step/loss") == [(0, 2.5)]
    assert scalars(tmp_path / "events", "epoch/loss") == [(1, 2.5), (2, 1.25)]
    assert scalars(tmp_path / "events", "epoch/val_accuracy") == [(2, 50.0)]


def test_events_of_steps_that_are_run_again_are_hidden(tmp_path):
    for start, losses in ((0, (3.0, 2.0, 9.0)), (2, (1.0,))):
        with EventLog(tmp_path, start_step=start) as log:
            for number, loss in enumerate(losses):
                log.step({"loss": loss}, step=start + number)
    assert scalars(tmp_path, "step/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_nothing_is_made_before_there_is_something_to_record(tmp_path):
    with EventLog(tmp_path, start_step=0):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [(errno.EIO, StoreError, r"the disk refused .*tfevents\."), (errno.ENOSPC, NoRoomError, "no room at .*events")],
)
def test_a_disk_that_refuses_is_an_error_with_the_file_s_place(tmp_path, number, kind, message):
    log = EventLog(tmp_path / "events", start_step=0)
    log.step({"loss": 1.0}, step=0)

    class Refusing:
        def write(self, data):
            raise OSError(number, os.strerror(number))

        flush = close = lambda self: self.write(b"")

    log._records._writer.close()
    log._records._writer = Refusing()
    with pytest.raises(kind, match=message), log:
        log.epoch({"epoch": 1, "loss": 1.0}, step=1)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "events").write_text("")
    with (
        pytest.raises(StoreError, match=r"the disk refused .*events"),
        EventLog(tmp_path / "events", start_step=0) as log,
    ):
        log.step({"loss": 1.0}, step=0)
