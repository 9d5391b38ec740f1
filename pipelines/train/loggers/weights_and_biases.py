"""Weights & Biases. Its own variables decide where a run goes: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline.

Without a login the run is kept in the run's folder, and ``wandb sync`` sends it later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mettle_cache.pipelines.train.loggers.protocol import LoggedRun, Picture, Status

# an axis of our own: W&B's refuses steps that are trained again after a kill
_STEP = "trainer/step"


class WeightsAndBiases:
    """One W&B run for a run of ours; several live side by side in a process."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        # nothing of the machine, of its user's code or of what the terminal shows is sent
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True
        )
        mode = os.environ.get("WANDB_MODE") or (None if wandb.api.api_key else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mettle"),
            name=run.name,
            group=run.group or None,
            id=run.identity or None,
            resume="allow" if run.identity else None,
            dir=str(run.folder),
            mode=mode,
            reinit="create_new",
            config=dict(run.settings),
            settings=settings,
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        self.identity = str(self._run.id)

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log({**values, _STEP: step})

    def images(self, pictures: Mapping[str, Picture], *, step: int) -> None:
        import wandb

        self._run.log({**{name: wandb.Image(picture) for name, picture in pictures.items()}, _STEP: step})

    def close(self, scores: Mapping[str, float], status: Status) -> None:
        self._run.summary.update(dict(scores))
        self._run.finish(exit_code=0 if status == "finished" else 1)
