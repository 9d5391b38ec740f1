"""What runs report: a training or an evaluation of one, or of several with mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mettle_cache.errors import RunError


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """The outcome of a run. ``selected_on`` is what picked ``best_epoch`` (counted from 1), with its ``best_score``.

    ``best_score`` is None where nothing was scored. ``clips_per_second`` covers the optimiser steps of this process,
    0 where there were none; ``history`` holds the rows of metrics.csv; ``dropped`` counts the samples of each split
    whose clips have no tokens; ``notes`` are the sentences that a reader of the numbers has to know.
    ``foretold_memory_bytes`` stand beside the peak: weights, their optimiser, batches, and tokens that stay where
    training is; 0 where nothing was foretold. ``residence`` is where tokens stayed, ``tokens`` says it in words.

    Of heads that shared a pass, ``variant`` tells this one from the others, ``clips_per_second`` is that of all of them
    together, and ``failure`` is what ended this one before its last epoch, None where nothing did.
    """

    out: Path
    recipe: str
    seed: int
    epochs: int
    selected_on: str
    metric: str
    best_epoch: int
    best_score: float | None
    parameters: int
    samples: dict[str, int]
    dropped: dict[str, int]
    clips_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    foretold_memory_bytes: int = 0
    residence: dict[str, object] = field(default_factory=dict)
    tokens: str = ""
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variant: str = ""
    failure: str | None = None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "out": str(self.out)}


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """Scores of a run on a split.

    ``floors`` are what predictions without a model reach; ``details`` are the task's own. ``paper`` is the published
    row of these backbones, or the data set's nearest where there is none, None where nothing is published of the data
    set; ``differs`` lists in sentences what separates this run from it, and the two are ``comparable`` where nothing
    does; ``notes`` are to be known all the same. ``times_evaluated`` counts the evaluations of this split, this one
    included. ``variant`` tells the run from those that were trained with it, ``training_failure``
    is what ended its training early. ``artefacts`` is the folder of files that show the predictions, None where there
    are none, and ``pictures`` what lies in it: sheets, and folders with a picture for every frame.
    """

    run: Path
    split: str
    samples: int
    dropped: int
    metric: str
    scores: dict[str, float]
    floors: dict[str, float]
    details: dict[str, object]
    paper: dict[str, object] | None
    differs: list[str]
    notes: list[str]
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
    pictures: list[Path] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether the score may stand beside the published one."""
        return not self.differs

    def to_json(self) -> dict[str, object]:
        paths = {name: str(getattr(self, name)) for name in ("run", "predictions", "store")}
        shown = None if self.artefacts is None else str(self.artefacts)
        pictures = [str(path) for path in self.pictures]
        return {**asdict(self), **paths, "artefacts": shown, "pictures": pictures, "comparable": self.comparable}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Scores of one variant's heads, in their order; ``failed`` counts those that are missing from them.

    ``std`` is the sample standard deviation (n - 1); None below two scores, as ``mean`` is without any.
    """

    variant: str
    metric: str
    scores: list[float]
    failed: int

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


def spread_of(heads: Sequence[tuple[str, float | None]], *, metric: str) -> list[Spread]:
    """One :class:`Spread` a variant, in order of appearance, from ``(variant, score)`` pairs; None is a failed head."""
    scores_of_variants: dict[str, list[float | None]] = {}
    for variant, score in heads:
        scores_of_variants.setdefault(variant, []).append(score)
    return [
        Spread(
            variant=variant,
            metric=metric,
            scores=[score for score in scores if score is not None],
            failed=scores.count(None),
        )
        for variant, scores in scores_of_variants.items()
    ]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """The outcome of heads that were trained together; ``errors`` are those of the heads that failed.

    ``bytes_read`` are the tokens read from the disk in this process, ``clips_per_second`` covers its optimiser steps of
    all heads, of the slowest pass where there were several. Memory and tokens are described as in a
    :class:`TrainReport`, those of the pass that took most.
    """

    folder: Path
    heads: list[TrainReport]
    bytes_read: int
    clips_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    notes: list[str]
    foretold_memory_bytes: int = 0
    residence: dict[str, object] = field(default_factory=dict)
    tokens: str = ""
    errors: list[RunError] = field(default_factory=list)
    passes: int = 1

    @property
    def only_head(self) -> TrainReport:
        """The outcome of a head that was trained alone; raises the RunError that ended it early, if one did."""
        if self.errors:
            raise self.errors[0]
        return self.heads[0]

    @property
    def summary(self) -> list[Spread]:
        """Mean and spread of the best scores; empty where nothing was scored."""
        heads = [(head.variant, None if head.failure else head.best_score) for head in self.heads]
        if all(head.best_score is None for head in self.heads):
            return []
        return spread_of(heads, metric=self.heads[0].metric)

    def to_json(self) -> dict[str, object]:
        return {
            "folder": str(self.folder),
            "heads": [head.to_json() for head in self.heads],
            "summary": [spread.to_json() for spread in self.summary],
            "failed": len(self.errors),
            "passes": self.passes,
            "bytes_read": self.bytes_read,
            "clips_per_second": self.clips_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_memory_of": self.peak_memory_of,
            "foretold_memory_bytes": self.foretold_memory_bytes,
            "residence": self.residence,
            "tokens": self.tokens,
            "notes": self.notes,
        }


def join_groups(groups: Sequence[GroupReport]) -> GroupReport:
    """The outcome of passes one after the other."""
    largest = max(groups, key=lambda group: group.peak_memory_bytes)
    return GroupReport(
        folder=groups[0].folder,
        heads=[head for group in groups for head in group.heads],
        bytes_read=sum(group.bytes_read for group in groups),
        clips_per_second=min((group.clips_per_second for group in groups if group.clips_per_second), default=0.0),
        peak_memory_bytes=largest.peak_memory_bytes,
        peak_memory_of=largest.peak_memory_of,
        foretold_memory_bytes=largest.foretold_memory_bytes,
        residence=largest.residence,
        tokens=largest.tokens,
        notes=list(dict.fromkeys(note for group in groups for note in group.notes)),
        errors=[error for group in groups for error in group.errors],
        passes=len(groups),
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationGroup:
    """Several runs on one split; ``failures`` are those that gave no score, each with its reason.

    ``notes`` are what has to be known of the runs together.
    """

    split: str
    reports: list[EvaluateReport]
    failures: list[tuple[Path, RunError]]
    notes: list[str] = field(default_factory=list)

    def only(self) -> EvaluateReport:
        """The report of the one run that was named. Raises the :class:`RunError` of a run that gave no score."""
        for _, error in self.failures:
            raise error
        return self.reports[0]

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
            "notes": self.notes,
        }
