"""What several heads came to: each one's report, and mean and spread over the seeds of each variant."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mettle_cache.errors import RunError
from mettle_cache.pipelines.report.train_report import TrainReport


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
    found: dict[str, list[float | None]] = {}
    for variant, score in heads:
        found.setdefault(variant, []).append(score)
    return [
        Spread(
            variant=variant,
            metric=metric,
            scores=[score for score in scores if score is not None],
            failed=scores.count(None),
        )
        for variant, scores in found.items()
    ]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """The outcome of heads that were trained together; ``errors`` are those of the heads that failed.

    ``bytes_read`` are the tokens read in this process, ``clips_per_second`` covers its optimiser steps of all heads.
    """

    folder: Path
    heads: list[TrainReport]
    bytes_read: int
    clips_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    notes: list[str]
    errors: list[RunError] = field(default_factory=list)

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
            "bytes_read": self.bytes_read,
            "clips_per_second": self.clips_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_memory_of": self.peak_memory_of,
            "notes": self.notes,
        }
