"""The difference of two variants, paired by seed and by sample."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mettle_cache.pipelines.compare.groups import Groups, group_columns
from mettle_cache.pipelines.compare.intervals import Interval, widest_interval
from mettle_cache.pipelines.evaluate.sample_scores import SampleScores, read_sample_scores
from mettle_cache.pipelines.tables.scored_runs import ScoredRun
from mettle_cache.pipelines.train.run_folder import RunFolder

# what rounding may add between a score and the mean of its samples' scores, in points
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference over the ``seeds`` that both variants have, in points.

    ``interval`` holds 95 %, over seeds and groups of samples; None where there is none, and ``without`` says why.
    ``groups`` are the numbers of groups by what samples share.
    """

    mean: float
    seeds: list[int]
    interval: Interval | None = None
    without: str = ""
    groups: dict[str, int] = field(default_factory=dict)


def paired_difference(
    runs: Sequence[ScoredRun], base: Sequence[ScoredRun], metric: str, split: str, groups: Groups
) -> Difference | None:
    """``runs`` less ``base``; None where they have no seed in common.

    Raises
    ------
    DatasetError
        A clip that the groups lack.
    RunError
        Samples' scores that are damaged.
    """
    ours, theirs = ({run.seed: run for run in several if run.failure is None} for several in (runs, base))
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    mean = statistics.fmean(ours[seed].score(metric) - theirs[seed].score(metric) for seed in seeds)
    if len(seeds) < 2:
        return Difference(mean=mean, seeds=seeds, without="one seed says nothing of how much seeds differ")
    pairs = [(_samples(ours[seed], split), _samples(theirs[seed], split)) for seed in seeds]
    terms = _terms([(ours[seed], theirs[seed]) for seed in seeds], pairs, metric)
    if isinstance(terms, str):
        return Difference(mean=mean, seeds=seeds, without=terms)
    columns = _columns(pairs, groups)
    counts = {name: len(set(labels)) for name, labels in columns.items()}
    few = [name for name, count in counts.items() if count < 2]
    if few:
        return Difference(mean=mean, seeds=seeds, without=f"all samples have the same {few[0]}", groups=counts)
    return Difference(mean=mean, seeds=seeds, interval=widest_interval(terms, columns), groups=counts)


def _samples(run: ScoredRun, split: str) -> SampleScores | None:
    return read_sample_scores(RunFolder(run.path), split)


def _terms(
    runs: Sequence[tuple[ScoredRun, ScoredRun]],
    pairs: Sequence[tuple[SampleScores | None, SampleScores | None]],
    metric: str,
) -> NDArray[np.float64] | str:
    """Differences ``[seeds, samples]``, or why there are none."""
    found = [one for pair in pairs for one in pair]
    scores = [run.score(metric) for pair in runs for run in pair]
    if any(one is None for one in found):
        return "an earlier version evaluated some runs, and kept no samples' scores: evaluate them again"
    known = [one for one in found if one is not None]
    if any((one.rows, one.clips) != (known[0].rows, known[0].clips) for one in known):
        return "the runs were scored on different samples"
    if any(metric not in one.terms for one in known):
        return f"{metric} is no mean over samples"
    means = [float(one.terms[metric].mean()) for one in known]
    if any(abs(mean - score) > _ROUNDING for mean, score in zip(means, scores, strict=True)):
        return f"{metric} is no mean over samples"
    values = [one.terms[metric] for one in known]
    return np.stack([mine - other for mine, other in zip(values[::2], values[1::2], strict=True)])


def _columns(
    pairs: Sequence[tuple[SampleScores | None, SampleScores | None]], groups: Groups
) -> Mapping[str, Sequence[str]]:
    first = pairs[0][0]
    return group_columns(groups, first.clips if first else (), where="--groups")
