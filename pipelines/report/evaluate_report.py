"""What an evaluation reports: one run, or several with mean and spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mettle_cache.errors import RunError
from mettle_cache.pipelines.report.group_report import Spread, spread_of


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """Scores of a run on a split.

    ``floors`` are what predictions without a model reach; ``details`` are the task's own. ``paper`` is the published
    row of these backbones, or of the task's best setting where there is none, and ``differs`` lists in sentences what
    separates this run from it. ``times_evaluated`` counts the evaluations of this split, this one included. ``variant``
    tells the run from those that were trained with it, ``training_failure`` is what ended its training early.
    ``artefacts`` is the folder of files that show the predictions, None where the task has nothing to show.
    """

    run: Path
    split: str
    samples: int
    dropped: int
    metric: str
    scores: dict[str, float]
    floors: dict[str, float]
    details: dict[str, object]
    paper: dict[str, object]
    differs: list[str]
    comparable: bool
    selected_on: str
    best_epoch: int
    times_evaluated: int
    predictions: Path
    store: Path
    store_digest: str
    checkpoint_digest: str
    seed: int
    variant: str = ""
    training_failure: str | None = None
    artefacts: Path | None = None

    def to_json(self) -> dict[str, object]:
        paths = {name: str(getattr(self, name)) for name in ("run", "predictions", "store")}
        return {**asdict(self), **paths, "artefacts": None if self.artefacts is None else str(self.artefacts)}


@dataclass(frozen=True, kw_only=True)
class EvaluationGroup:
    """Several runs on one split; ``failures`` are those that gave no score, each with its reason."""

    split: str
    reports: list[EvaluateReport]
    failures: list[tuple[Path, RunError]]

    @property
    def summary(self) -> list[Spread]:
        """Mean and spread over the runs of each variant; a run whose training failed does not count."""
        runs = [
            (report.variant, None if report.training_failure else report.scores[report.metric])
            for report in self.reports
        ]
        return spread_of(runs, metric=self.reports[0].metric) if runs else []

    def to_json(self) -> dict[str, object]:
        return {
            "split": self.split,
            "runs": [report.to_json() for report in self.reports],
            "summary": [spread.to_json() for spread in self.summary],
            "failures": [{"run": str(run), "message": error.message} for run, error in self.failures],
        }
