"""TensorBoard's event files. Written without its SummaryWriter, whose thread prints what a full disk does to it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mettle_cache.errors import StoreError
from mettle_cache.pipelines.train.history import EpochRow
from mettle_cache.store.writing.durable import disk_errors

_VERSION = "brain.Event:2"


class EventLog:
    """Writes a run's events; a context manager. ``start_step`` hides events that a killed run wrote beyond it.

    No file is made before there is something to record. Every method raises NoRoomError where the disk is full and
    StoreError where it refuses.
    """

    def __init__(self, folder: Path, *, start_step: int) -> None:
        # TensorBoard knows event files by their names and reads them in the order of these
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._start_step = start_step
        self._records: RecordWriter | None = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with disk_errors(self.path, needed=0):
                if self._records is not None:
                    self._records.close()
        except StoreError:
            # closing writes what is left: where the disk has refused before, that is the error to report
            if error is None:
                raise

    def step(self, terms: Mapping[str, float], *, step: int) -> None:
        """The loss terms of one optimiser step, counted over the whole run."""
        with disk_errors(self.path, needed=0):
            self._scalar("step/loss", sum(terms.values()), step)

    def epoch(self, row: EpochRow, *, step: int) -> None:
        """The numbers of one epoch; what was recorded is on its way to the disk then."""
        with disk_errors(self.path, needed=0):
            for name, value in row.items():
                if value is not None and name != "epoch":
                    self._scalar(f"epoch/{name}", value, step)
            if self._records is not None:
                self._records.flush()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))

    def _write(self, event: Event) -> None:
        if self._records is None:
            self.path.parent.mkdir(exist_ok=True)
            self._records = RecordWriter(self.path.open("wb"))
            self._write(Event(file_version=_VERSION))
            if self._start_step:
                restart = SessionLog(status=SessionLog.START)
                self._write(Event(step=self._start_step, session_log=restart))
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
