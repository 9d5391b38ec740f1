"""TensorBoard's event files: curves, pictures and the view of hyper-parameters.

Written without its SummaryWriter, whose thread prints what a full disk does to it, and without buffers: a killed
process leaves whole events.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status as HparamStatus
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from mettle_cache.pipelines.train.loggers.protocol import LoggedRun, Picture, Setting, Status
from mettle_cache.pipelines.train.run_folder import RunFolder

_VERSION = "brain.Event:2"
_STATUS = {
    "finished": HparamStatus.STATUS_SUCCESS,
    "failed": HparamStatus.STATUS_FAILURE,
    "stopped": HparamStatus.STATUS_UNKNOWN,
}


class TensorBoard:
    """Writes one file of events a process into ``events/``. No file is made before there is something to record."""

    identity = ""

    def __init__(self, run: LoggedRun) -> None:
        # TensorBoard knows event files by their names and reads them in the order of these
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self.path = RunFolder(run.folder).events / name
        self._run = run
        self._file: io.FileIO | None = None
        self._records: RecordWriter | None = None

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        self._write([Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step)

    def images(self, pictures: Mapping[str, Picture], *, step: int) -> None:
        self._write([Summary.Value(tag=tag, image=_encode(picture)) for tag, picture in pictures.items()], step)

    def close(self, scores: Mapping[str, float], status: Status) -> None:
        if self._file is None:
            return
        # a score that the view shows is a curve of the run; this one is a point
        self.scalars(scores, step=0)
        ended = SessionEndInfo(status=_STATUS[status], end_time_secs=time.time())
        self._write([_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=ended)], 0)
        self._file.close()

    def _write(self, values: list[Summary.Value], step: int) -> None:
        if self._records is None:
            self._begin(step)
        self._add(Event(step=step, summary=Summary(value=values)))

    def _begin(self, step: int) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self._file = io.FileIO(self.path, "wb")
        self._records = RecordWriter(self._file)
        self._add(Event(file_version=_VERSION))
        if step:
            # hides what a killed process wrote beyond the epoch that is trained again
            self._add(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        started = SessionStartInfo(group_name=self._run.name, start_time_secs=time.time())
        for name, value in self._run.settings.items():
            _set(started.hparams[name], value)
        start = _hparams(metadata.SESSION_START_INFO_TAG, session_start_info=started)
        self._add(Event(summary=Summary(value=[start])))

    def _add(self, event: Event) -> None:
        assert self._records is not None
        assert self._file is not None
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
        except OSError:
            self._file.close()
            raise


def _hparams(tag: str, **content: Any) -> Summary.Value:
    described = metadata.create_summary_metadata(HParamsPluginData(**content))
    return Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)


def _set(field: Any, value: Setting) -> None:
    """Put a value into protobuf's kind of any value."""
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float):
        field.number_value = value
    else:
        field.string_value = value


def _encode(picture: Picture) -> Summary.Image:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    height, width, channels = picture.shape
    return Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=content.getvalue())
