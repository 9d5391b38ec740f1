"""MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME decide where runs go: a server, or a file of SQLite's."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mettle_cache.pipelines.train.loggers.protocol import LoggedRun, Picture, Status

if TYPE_CHECKING:
    from mlflow.entities import Metric

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# of what one request may hold, and how long numbers may wait for others
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 500, 100, 500
_MOST_SECONDS = 10.0
# a server that is gone must not hold up the training for minutes, as the client's own limits would
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MLflow:
    """One MLflow run for a run of ours. Numbers are sent together, every few seconds."""

    def __init__(self, run: LoggedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient()
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()
        self.identity = run.identity if run.identity and self._exists(run.identity) else self._create(run)
        known = self._client.get_run(self.identity).data.params
        params = [Param(_key(name), str(value)[:_LONGEST_PARAM]) for name, value in run.settings.items()]
        # MLflow lets no param change, and a run may get longer
        new = [param for param in params if param.key not in known]
        for first in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self.identity, params=new[first : first + _MOST_PARAMS])

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(_key(name), value, now, step) for name, value in values.items()]
        if len(self._waiting) >= _MOST_METRICS or time.monotonic() - self._sent > _MOST_SECONDS:
            self._send()

    def images(self, pictures: Mapping[str, Picture], *, step: int) -> None:
        for name, picture in pictures.items():
            self._client.log_image(self.identity, picture, key=_key(name), step=step)

    def close(self, scores: Mapping[str, float], status: Status) -> None:
        self.scalars(scores, step=0)
        self._send()
        self._client.set_terminated(self.identity, status=_STATUS[status])

    def _send(self) -> None:
        for first in range(0, len(self._waiting), _MOST_METRICS):
            self._client.log_batch(self.identity, metrics=self._waiting[first : first + _MOST_METRICS])
        self._waiting, self._sent = [], time.monotonic()

    def _exists(self, identity: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(identity, status="RUNNING")
        except MlflowException:  # deleted there, or of another server
            return False
        return True

    def _create(self, run: LoggedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mettle")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"group": run.group} if run.group else {}
        created: str = self._client.create_run(number, run_name=run.name, tags=tags).info.run_id
        return created


def _key(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)
