"""Variants take turns, and what is reported is what was measured."""

import pytest

from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.timing import Repeats, TimedVariant, time_interleaved


def watched(names, calls, **options):
    return [TimedVariant(name, lambda name=name: calls.append(name), **options) for name in names]


def test_variants_take_turns_and_every_round_starts_with_another():
    calls = []
    seconds = time_interleaved(watched("abc", calls), repeats=3, progress=Silent())
    assert "".join(calls) == "abcbcacababc"
    assert {name: len(samples.values) for name, samples in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_without_a_warm_up_every_round_counts():
    calls = []
    seconds = time_interleaved(watched("a", calls), repeats=2, progress=Silent(), warm_up=False)
    assert len(calls) == len(seconds["a"].values) == 2


def test_what_runs_around_a_variant_is_not_timed(monkeypatch):
    now, calls = [0.0], []

    def spend(name, seconds):
        def work():
            calls.append(name)
            now[0] += seconds

        return work

    monkeypatch.setattr("mettle_cache.pipelines.timing.time.perf_counter", lambda: now[0])
    variant = TimedVariant("a", spend("work", 2.0), before=spend("before", 100.0), after=spend("after", 1000.0))
    seconds = time_interleaved([variant], repeats=2, progress=Silent())
    assert calls == ["before", "work", "after"] * 3
    assert seconds["a"].values == (2.0, 2.0)


def test_a_variant_may_bring_its_own_clock():
    seconds = time_interleaved([TimedVariant("a", lambda: 0.25, own_clock=True)], repeats=2, progress=Silent())
    assert seconds["a"].values == (0.25, 0.25)
    with pytest.raises(TypeError, match="returns seconds, not None"):
        time_interleaved([TimedVariant("a", lambda: None, own_clock=True)], repeats=1, progress=Silent())


def test_repeats_are_summed_up_by_median_least_and_most():
    values = Repeats((4.0, 1.0, 2.0))
    assert (values.median, values.low, values.high) == (2.0, 1.0, 4.0)
    assert values.rate(8).values == (2.0, 8.0, 4.0)
    assert values.times(3).values == (12.0, 3.0, 6.0)
