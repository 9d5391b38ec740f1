"""Which runs to train together, and whether one pass over a store can serve them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run to train.

    ``variant`` says what the recipe changes against that of the other runs, as ``key=value`` words; empty where
    nothing. ``name`` is the run's place below ``folder``, such as ``seed-0`` or ``lcd.k_visual=2/seed-0``; empty for a
    run that is trained alone in ``folder`` itself.
    """

    recipe: Recipe
    seed: int
    folder: Path
    name: str = ""
    variant: str = ""

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.folder / self.name


# what decides which samples are in a batch, and what a sample is; anything else may differ between heads
_COMMON: dict[str, Callable[[Recipe], object]] = {
    "task": lambda recipe: recipe.task,
    "train.batch_size": lambda recipe: recipe.train.batch_size,
    "train.order_seed": lambda recipe: recipe.train.order_seed,
}


def check_shared(specs: Sequence[RunSpec]) -> None:
    """Make sure that these heads take the same batches, and that each has a folder of its own.

    Layers, methods, learning rates and numbers of epochs may differ.

    Raises
    ------
    UsageError
        No heads, two heads for one folder, or a setting that heads of one pass must have in common.
    """
    if not specs:
        raise UsageError("there is no head to train", hint="name at least one seed")
    folders = [spec.out for spec in specs]
    twice = next((spec for spec in specs if folders.count(spec.out) > 1), None)
    if twice is not None:
        raise UsageError(f"two heads would be trained in {twice.out}", hint="name every seed and every variant once")
    first = specs[0]
    for key, value_of in _COMMON.items():
        different = next((spec for spec in specs if value_of(spec.recipe) != value_of(first.recipe)), None)
        if different is not None:
            raise UsageError(
                f"heads that share a pass over the store must have the same {key}: it is {value_of(first.recipe)} in "
                f"'{first.name}' and {value_of(different.recipe)} in '{different.name}'",
                hint=f"train the heads of each {key} by a command of their own",
            )
