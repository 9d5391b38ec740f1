"""The 95 % interval of a mean paired difference, over seeds and over groups of samples that are not independent.

Two things are drawn in a comparison of heads: the seed of the head, and the test samples. Both are resampled with
replacement, each by itself and every seed with every group (the pigeonhole bootstrap of Owen, Annals of Applied
Statistics 1, 2007), and the mean over all samples is taken anew in every draw. Samples that share an asset (a picture,
a recording, a video) are one group and are drawn together.

Quantiles of the draws alone do not cover what they should: the resampled variance of a few seeds is too small, its own
error is ignored, and what is of one seed with one group alone counts three times. So the quantiles are taken where
Student's t has them for the variance of two-way clustering (Cameron, Gelbach and Miller, Journal of Business & Economic
Statistics 29, 2011), as Hesterberg does for one sample (What Teachers Should Know About the Bootstrap, The American
Statistician 69, 2015, section 5.3); the degrees of freedom are those of Welch and Satterthwaite. Draws never leave the
range of what was measured, which of two or three seeds is too narrow: where too few draws lie beyond such a quantile,
the interval reaches at least as far as that of t about the mean.

Shapes: S seeds, R samples, G groups, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mettle_cache.errors import UsageError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 10_000
_SEED = 0
# bounds the memory of one piece: its counts are [draws, groups]
_PIECE = 500
_GRID = 20_001
# fewer draws than that beyond a quantile do not say where it is
_FEWEST_BEYOND = 5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean difference with its 95 % interval, and what the samples were grouped by to get it."""

    mean: float
    low: float
    high: float
    groups: int
    grouped_by: str = ""


def widest_interval(differences: ArrayLike, columns: Mapping[str, Sequence[object]], *, draws: int = DRAWS) -> Interval:
    """The widest of the intervals of :func:`paired_interval` over several ways to group the samples.

    A sample may share its picture with some samples and its recording with others. Groups that hold everything which
    is connected somehow would soon be one, so each way of sharing is taken by itself. ``columns`` are the groups of the
    R samples by the name of what they share.
    """
    intervals = [paired_interval(differences, labels, grouped_by=name, draws=draws) for name, labels in columns.items()]
    return max(intervals, key=lambda interval: interval.high - interval.low)


def paired_interval(
    differences: ArrayLike, groups: Sequence[object], *, grouped_by: str = "", draws: int = DRAWS
) -> Interval:
    """The mean of paired differences ``[S, R]`` and its 95 % interval; the same input gives the same numbers.

    Row s holds what the same samples scored under two codecs with one seed, the one less the other. ``groups`` name the
    group of each sample.

    Raises
    ------
    UsageError
        Fewer than two seeds or two groups, shapes that do not fit, or a difference that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(groups):
        raise UsageError(f"differences {values.shape} and {len(groups)} groups must be [seeds, samples], [samples]")
    if not np.isfinite(values).all():
        raise UsageError("a paired difference is not finite")
    sums, sizes = _group_sums(values, groups)
    if len(values) < 2 or len(sizes) < 2:
        raise UsageError(f"an interval needs at least two seeds and two groups, not {len(values)} and {len(sizes)}")
    mean, means = float(values.mean()), resampled_means(sums, sizes, draws=draws)
    reach, spread = _reach(sums, sizes), float(means.std())
    tail = NormalDist().cdf(-reach / spread) if reach and spread else (1 - CONFIDENCE) / 2
    low, high = (float(quantile) for quantile in np.quantile(means, [tail, 1 - tail]))
    if tail * draws < _FEWEST_BEYOND:
        low, high = min(low, mean - reach), max(high, mean + reach)
    return Interval(mean=mean, low=low, high=high, groups=len(sizes), grouped_by=grouped_by)


def resampled_means(sums: Floats, sizes: Floats, *, draws: int = DRAWS) -> Floats:
    """Means ``[B]`` of resampled seeds and groups, from the groups' sums ``[S, G]`` and numbers of samples ``[G]``."""
    seeds, groups = sums.shape
    rng = np.random.default_rng(_SEED)
    means = np.empty(draws)
    for start in range(0, draws, _PIECE):
        piece = means[start : start + _PIECE]
        often = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(piece))
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(piece))
        piece[:] = (chosen * (often @ sums.T)).sum(1) / (seeds * (often @ sizes))
    return means


def _group_sums(values: Floats, groups: Sequence[object]) -> tuple[Floats, Floats]:
    """Sums ``[S, G]`` and numbers of samples ``[G]`` of the groups, in the order in which they first appear."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    place_of = np.array([places[group] for group in groups], dtype=np.int64)
    sums = np.stack([np.bincount(place_of, weights=row, minlength=len(places)) for row in values])
    return sums.astype(np.float64), np.bincount(place_of, minlength=len(places)).astype(np.float64)


def _reach(sums: Floats, sizes: Floats) -> float:
    """How far Student's t with the variance of two-way clustering reaches to each side of the mean."""
    seeds, groups = sums.shape
    total = seeds * sizes.sum()
    # the groups' sums around what their sizes would give, as shares of the mean
    off = (sums - sums.sum() / total * sizes) / total
    by_seed = float((off.sum(1) ** 2).sum()) * seeds / (seeds - 1)
    by_group = float((off.sum(0) ** 2).sum()) * groups / (groups - 1)
    if by_seed + by_group == 0:
        return 0.0
    variance = max(by_seed, by_group, by_seed + by_group - float((off**2).sum()))
    freedom = (by_seed + by_group) ** 2 / (by_seed**2 / (seeds - 1) + by_group**2 / (groups - 1))
    return student_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance)


def student_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t for a ``probability`` above one half.

    With ``t = sqrt(freedom) tan(a)`` the density is that of ``cos(a)^(freedom - 1)``, which is summed on a grid.
    """
    angles = np.linspace(0, np.pi / 2, _GRID)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    angle = np.interp(2 * probability - 1, below / below[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))
