"""Repeated measurements: variants take turns within every repeat, so that what a busy machine does hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mettle_cache.pipelines.progress import Progress

# the least that a figure may stand on; see report.py
LEAST_REPEATS = 5


@dataclass(frozen=True)
class Repeats:
    """One quantity, measured several times; ``values`` in order of time."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def rate(self, amount: float) -> Repeats:
        """``amount`` a second, where the values are seconds."""
        return Repeats(tuple(amount / seconds for seconds in self.values))

    def times(self, factor: float) -> Repeats:
        return Repeats(tuple(factor * value for value in self.values))


@dataclass(frozen=True)
class TimedVariant:
    """Something to time under a name. ``before`` and ``after`` run around each repeat and are not timed.

    With ``own_clock``, ``work`` returns the seconds that count.
    """

    name: str
    work: Callable[[], object]
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    own_clock: bool = False


def time_interleaved(
    variants: Sequence[TimedVariant], *, repeats: int, progress: Progress, warm_up: bool = True
) -> dict[str, Repeats]:
    """Seconds of every variant, ``repeats`` times; ``warm_up`` adds one round at the start that is not counted.

    Each round starts with another variant: none always runs in the wake of the same neighbour.
    """
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    rounds = range(0 if warm_up else 1, repeats + 1)
    progress.start(len(rounds) * len(variants), "measurements", "measure")
    for number in rounds:
        first = number % len(variants) if variants else 0
        for variant in (*variants[first:], *variants[:first]):
            if variant.before is not None:
                variant.before()
            started = time.perf_counter()
            result = variant.work()
            elapsed = time.perf_counter() - started
            if variant.after is not None:
                variant.after()
            if number:
                seconds[variant.name].append(_own_seconds(result) if variant.own_clock else elapsed)
            progress.advance()
    progress.finish()
    return {name: Repeats(tuple(values)) for name, values in seconds.items()}


def _own_seconds(result: object) -> float:
    if not isinstance(result, float):
        raise TypeError(f"a variant with its own clock returns seconds, not {result!r}")
    return result
