"""The epochs of runs, from their folders alone: no store is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mettle_cache.errors import RunError
from mettle_cache.pipelines.figures.learning_curves import LearningCurve
from mettle_cache.pipelines.train.history import parse_history
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.tasks.registry import get_task


def run_curve(path: Path, label: str) -> tuple[LearningCurve, str]:
    """A run's curve and what its score is: the split and the metric, such as ``val accuracy``.

    Raises
    ------
    RunError
        The run has not finished an epoch, or its table is damaged.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    metric = get_task(config.load_recipe().task).metric
    column = f"{config.select_on}_{metric}"
    table = folder.check(folder.metrics)
    try:
        rows = parse_history(table.read_bytes())
        loss = np.array([row["loss"] for row in rows], np.float64)
        score = np.array([row.get(column) for row in rows], np.float64)
    except ValueError as error:
        raise RunError(f"{table}: no table of epochs ({error})") from error
    return LearningCurve(label=label, loss=loss, score=score, best=_best(score)), f"{config.select_on} {metric}"


def _best(score: np.ndarray) -> int:
    """The selected epoch: the latest of the highest; without scores the last."""
    if not np.isfinite(score).any():
        return len(score)
    return int(np.flatnonzero(score == np.nanmax(score))[-1]) + 1
