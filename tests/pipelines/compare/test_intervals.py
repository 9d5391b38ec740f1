"""The interval against closed formulas, exact enumeration and simulated coverage; scipy's t is the oracle of ours."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.compare.intervals import (
    paired_interval,
    resampled_means,
    student_quantile,
    widest_interval,
)


@given(st.floats(0.51, 0.9999), st.floats(1, 5000))
def test_the_quantile_is_that_of_students_t(probability, freedom):
    assert student_quantile(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=1e-3)


def test_many_equal_seeds_give_the_t_interval_of_the_samples():
    """Seeds that agree add nothing, and then it is the interval of a mean of independent samples."""
    samples = np.random.default_rng(0).normal(2, 3, 400)
    found = paired_interval(np.tile(samples, (50, 1)), range(400))
    reach = scipy.stats.t.ppf(0.975, 399) * samples.std(ddof=1) / 20
    assert found.mean == pytest.approx(samples.mean())
    assert (found.low, found.high) == pytest.approx((samples.mean() - reach, samples.mean() + reach), abs=0.03)


def test_samples_that_agree_give_the_t_interval_of_the_seeds():
    """Twelve heads, each of which gains the same in every sample: twelve independent numbers."""
    gains = np.linspace(-1, 2, 12)
    found = paired_interval(np.tile(gains[:, None], (1, 300)), range(300))
    reach = scipy.stats.t.ppf(0.975, 11) * gains.std(ddof=1) / math.sqrt(12)
    assert (found.low, found.high) == pytest.approx((gains.mean() - reach, gains.mean() + reach), abs=0.08 * reach)


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_reach_beyond_what_was_measured(seeds):
    """All draws lie between the worst and the best seed, and so does the truth in a half of all worlds with two."""
    gains = np.linspace(-1, 2, seeds)
    found = paired_interval(np.tile(gains[:, None], (1, 300)), range(300))
    reach = scipy.stats.t.ppf(0.975, seeds - 1) * gains.std(ddof=1) / math.sqrt(seeds)
    assert (found.low, found.high) == pytest.approx((0.5 - reach, 0.5 + reach), rel=1e-3)


def test_the_draws_are_those_of_all_resamples():
    """Two seeds and three groups of unequal size have 4 times 27 resamples, all as likely."""
    sums, sizes = np.array([[3.0, -1.0, 4.0], [1.0, 0.0, 2.0]]), np.array([2.0, 1.0, 5.0])
    exact = [
        np.mean([sums[seed, list(groups)].sum() for seed in seeds]) / sizes[list(groups)].sum()
        for seeds in itertools.product(range(2), repeat=2)
        for groups in itertools.product(range(3), repeat=3)
    ]
    drawn = resampled_means(sums, sizes, draws=60_000)
    shares = [dict(zip(*np.unique(np.round(all_of, 9), return_counts=True), strict=True)) for all_of in (exact, drawn)]
    assert shares[0].keys() == shares[1].keys()
    for value, count in shares[0].items():
        assert shares[1][value] / len(drawn) == pytest.approx(count / len(exact), abs=0.01)


def _slow_means(values, groups, draws, rng):
    """Sample by sample: groups and seeds are drawn, their samples put beside each other, and averaged."""
    members = {name: [place for place, group in enumerate(groups) if group == name] for name in set(groups)}
    names = sorted(members)
    for _ in range(draws):
        seeds = rng.integers(0, len(values), len(values))
        chosen = [place for name in rng.choice(names, len(names)) for place in members[name]]
        yield np.mean([values[seed][chosen].mean() for seed in seeds])


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 12, 90).tolist()
    values = rng.normal(0, 1, (4, 90)) + rng.normal(0, 2, 12)[groups]
    slow = np.fromiter(_slow_means(values, groups, 4000, rng), float)
    places = np.array([sorted(set(groups)).index(group) for group in groups])
    sums = np.stack([np.bincount(places, weights=row) for row in values])
    fast = resampled_means(sums, np.bincount(places).astype(float), draws=20_000)
    assert fast.std() == pytest.approx(slow.std(), rel=0.05)
    assert np.quantile(fast, [0.05, 0.95]) == pytest.approx(np.quantile(slow, [0.05, 0.95]), abs=0.1)


def test_groups_of_one_are_the_plain_bootstrap_and_their_names_do_not_matter():
    values = np.random.default_rng(3).normal(0, 1, (3, 40))
    assert paired_interval(values, range(40)) == paired_interval(values, [f"clip {n}" for n in range(40)])


def test_clips_that_share_their_luck_widen_the_interval():
    luck = np.random.default_rng(4).normal(0, 1, 20)
    values = np.tile(np.repeat(luck, 10), (5, 1))
    alone, together = paired_interval(values, range(200)), paired_interval(values, np.repeat(range(20), 10).tolist())
    assert together.high - together.low > 2.5 * (alone.high - alone.low)
    widest = widest_interval(values, {"clip": range(200), "asset": np.repeat(range(20), 10).tolist()})
    assert (widest.grouped_by, widest.groups) == ("asset", 20)
    assert (widest.low, widest.high) == (together.low, together.high)


def test_no_difference_is_none():
    found = paired_interval(np.zeros((2, 9)), range(9))
    assert (found.mean, found.low, found.high) == (0, 0, 0)


@given(st.floats(-50, 50), st.floats(0.01, 20))
def test_it_moves_and_stretches_with_the_differences(shift, scale):
    values = np.random.default_rng(5).normal(0, 1, (3, 30))
    groups = [n // 3 for n in range(30)]
    plain = paired_interval(values, groups, draws=300)
    moved = paired_interval(scale * values + shift, groups, draws=300)
    for ours, other in ((moved.mean, plain.mean), (moved.low, plain.low), (moved.high, plain.high)):
        assert ours == pytest.approx(scale * other + shift, abs=1e-6 + 1e-6 * abs(shift))


@pytest.mark.parametrize(
    ("values", "groups", "words"),
    [
        (np.zeros((1, 4)), range(4), "at least two seeds"),
        (np.zeros((3, 4)), "aaaa", "two groups, not 3 and 1"),
        (np.zeros((3, 4)), range(5), "must be"),
        (np.full((3, 4), np.nan), range(4), "not finite"),
    ],
)
def test_what_has_no_interval_is_refused(values, groups, words):
    with pytest.raises(UsageError, match=words):
        paired_interval(values, groups)


# seeds, groups, and the deviations of a seed's effect, of a group's, and of both together
WORLDS = [(5, 60, 1, 0, 0.5), (5, 60, 0, 1, 0.5), (5, 60, 0.1, 1, 1), (5, 60, 0, 0, 1), (5, 12, 0.1, 1, 1)]
WORLDS += [(2, 60, 1, 0, 0.5)]


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_it_covers_what_it_should(world):
    """How often the interval holds the true difference, 0, in 1,000 worlds; groups have 1 to 5 samples."""
    seeds, groups, of_seed, of_group, of_both = world
    rng, hits = np.random.default_rng(6), 0
    for _ in range(1000):
        labels = np.repeat(np.arange(groups), rng.integers(1, 6, groups))
        values = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_group, groups)[labels]
        found = paired_interval(values + rng.normal(0, of_both, (seeds, len(labels))), labels.tolist(), draws=1000)
        hits += found.low <= 0 <= found.high
    # a twentieth should miss; five seeds alone leave some more
    assert 900 <= hits <= 980
