"""Runs with their scores on a split, as ``evaluate`` has left them in their folders. Nothing is scored here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mettle_cache.errors import RunError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.train.run_folder import RunFolder

_USUAL_SPLITS = ("test", "val", "train")
_LISTED = 3


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run whose best epoch was scored.

    ``evaluation`` is what :meth:`EvaluateReport.to_json` gave, ``recipe`` the run's in plain values. ``variant`` tells
    the run from those that were trained with it; empty for one that was trained alone.
    """

    path: Path
    dataset: str
    variant: str
    seed: int
    recipe: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @property
    def metric(self) -> str:
        """The task's own metric, which selected the epoch."""
        return str(self.evaluation["metric"])

    @property
    def scores(self) -> Mapping[str, float]:
        scores: Mapping[str, float] = self.evaluation["scores"]
        return scores

    def score(self, metric: str) -> float:
        """One score; raises UsageError where the task has none of that name."""
        if metric not in self.scores:
            raise UsageError(f"{self.path}: there is no score {metric}", hint=f"the task has {', '.join(self.scores)}")
        return self.scores[metric]

    @property
    def row(self) -> str:
        """The name of its row in a table: the variant, else the folder; seeds of one recipe lie side by side in it."""
        return self.variant or str(self.path.parent if self.path.name.startswith("seed-") else self.path)

    @property
    def failure(self) -> str | None:
        """What ended the training early, None where nothing did."""
        failure: str | None = self.evaluation.get("training_failure")
        return failure


def read_scored_runs(folders: Sequence[Path], split: str) -> list[ScoredRun]:
    """The runs in these folders with their scores on ``split``.

    Raises
    ------
    RunError
        One is damaged, was not evaluated on that split, or was trained on since.
    """
    runs = [read_scored_run(folder, split) for folder in folders]
    if not any(runs):
        _check_split(folders, split)
    missing = [folder for folder, run in zip(folders, runs, strict=True) if run is None]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        option = [] if split == "test" else ["--split", split]
        raise RunError(
            f"{len(missing)} of {len(folders)} runs have no scores on {split}, or were trained on since: "
            f"{', '.join(map(str, missing[:_LISTED]))}{more}",
            hint=f"score them in one pass: {command_line('mettle evaluate', *_parents(missing), *option)}",
        )
    return [run for run in runs if run is not None]


def read_scored_run(folder: Path, split: str) -> ScoredRun | None:
    """The run in a folder; None where it has no scores on ``split``, or was trained on since. Raises RunError."""
    place = RunFolder(folder)
    config = place.read_config()
    evaluation = place.read_result().get("evaluation", {}).get(split)
    # runs of the first version list no digests: whether they were trained on since cannot be told
    best = config.files.get(place.best.name)
    if evaluation is None or (best is not None and best != evaluation["checkpoint_digest"]):
        return None
    return ScoredRun(
        path=folder,
        dataset=config.store.dataset,
        variant=config.variant,
        seed=config.seed,
        recipe=config.recipe,
        evaluation=evaluation,
    )


def _check_split(folders: Sequence[Path], split: str) -> None:
    """Refuse the name of a split that is none, by all that the runs' results tell."""
    scored = [name for folder in folders for name in RunFolder(folder).read_result().get("evaluation", {})]
    known = list(dict.fromkeys([*scored, *_USUAL_SPLITS]))
    near = difflib.get_close_matches(split, known, n=1)
    if split not in known and near:
        raise UsageError(f"no run here has scores on a split '{split}'", hint=f"did you mean {near[0]}?")


def _parents(runs: Sequence[Path]) -> list[Path]:
    """One folder that holds them all, two levels up at most; else each of them."""
    for parents in ({run.parent for run in runs}, {run.parent.parent for run in runs}):
        if len(runs) > 1 and len(parents) == 1:
            return list(parents)
    return list(runs)
