"""The loss terms of a step, which are read when the next step is under way: a device must not wait for the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from torch import Tensor

from mettle_cache.errors import RunError
from mettle_cache.store.reading.device_copy import HostCopy


class StepTerms(Mapping[str, float]):
    """Terms by name; whoever looks at a value waits for the device to be done with the step.

    ``samples`` are those of the step's batch, ``epoch`` and ``index`` its place, counted from 0.
    """

    def __init__(self, names: Sequence[str], values: Tensor, *, samples: int, epoch: int, index: int) -> None:
        self.samples = samples
        self.epoch = epoch
        self.index = index
        self._names = tuple(names)
        self._copy = HostCopy(values)

    @cached_property
    def _values(self) -> dict[str, float]:
        return dict(zip(self._names, self._copy.read(), strict=True))

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def check(self) -> None:
        """Make sure that all terms are finite.

        Raises
        ------
        RunError
            One is not; names epoch and step.
        """
        if all(map(math.isfinite, self.values())):
            return
        listed = ", ".join(f"{name} {value:.4g}" for name, value in self.items())
        raise RunError(
            f"epoch {self.epoch + 1}, step {self.index + 1}: the loss is not finite ({listed})",
            hint="lower train.learning_rate, or check the tokens with: mettle verify STORE --deep",
        )
