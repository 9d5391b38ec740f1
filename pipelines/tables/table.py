"""A table of scored runs: one row a variant, its mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.tables.scored_runs import ScoredRun


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One variant: ``scores`` by seed, those of heads whose training failed left out and counted in ``failed``.

    ``std`` is the sample standard deviation (n - 1); None below two scores, as ``mean`` is without any.
    """

    name: str
    scores: dict[int, float]
    failed: int

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one data set, split and metric."""

    title: str
    dataset: str
    split: str
    metric: str
    rows: list[TableRow]

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}


def make_table(runs: Sequence[ScoredRun], *, title: str, split: str) -> Table:
    """One row a variant, in order of appearance.

    Raises
    ------
    UsageError
        Runs of several metrics or stores' data sets.
    """
    subjects = sorted({(run.dataset, run.metric) for run in runs})
    if len(subjects) > 1:
        listed = " and ".join(f"{dataset} ({metric})" for dataset, metric in subjects)
        raise UsageError(f"runs on {listed} make no table", hint="name runs on one data set")
    ((dataset, metric),) = subjects
    variants: dict[str, list[ScoredRun]] = {}
    for run in runs:
        variants.setdefault(run.variant or str(run.path), []).append(run)
    rows = [
        TableRow(
            name=name,
            scores={run.seed: run.scores[metric] for run in of_variant if run.failure is None},
            failed=sum(run.failure is not None for run in of_variant),
        )
        for name, of_variant in variants.items()
    ]
    return Table(title=title, dataset=dataset, split=split, metric=metric, rows=rows)
