"""What to train together: seeds, the variants of a sweep's recipe, and the runs that share one pass over a store.

Every combination of one ``--variant`` and one value of each ``--set`` is a variant; a ``--set`` with one value is
common to all of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import UsageError

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.recipe import Recipe

BASE = "recipe"
_MAX_NAME = 120
_MAX_HEADS = 1000
_DECORATION = re.compile(r"[\s\"'\[\]{}]+")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=+-]")
_HIDDEN = re.compile(r"^\.+")
# what decides which samples are in a batch, and what a sample is; anything else may differ between heads
_COMMON: dict[str, Callable[[Recipe], object]] = {
    "task": lambda recipe: recipe.task,
    "train.batch_size": lambda recipe: recipe.train.batch_size,
    "train.order_seed": lambda recipe: recipe.train.order_seed,
}


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


@dataclass(frozen=True)
class Variant:
    """A recipe's overrides, as ``key=value`` each: ``varied`` are what tells it from the others."""

    common: tuple[str, ...]
    varied: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        return (*self.common, *self.varied)

    @property
    def text(self) -> str:
        """For people: the varied overrides; ``recipe`` where there are none."""
        return " ".join(self.varied) or BASE

    @property
    def name(self) -> str:
        """A folder's name: the varied overrides without brackets, quotes and blanks; long ones end in a digest."""
        plain = (_DECORATION.sub("", override) for override in self.varied)
        return _shorten(",".join(_UNSAFE.sub("-", override) for override in plain) or BASE, of=self.text)


def folder_name(text: str) -> str:
    """A text as the name of a folder, neither hidden nor a parent; a long one ends in a digest."""
    return _shorten(_HIDDEN.sub("-", _UNSAFE.sub("-", text)), of=text)


def _shorten(name: str, *, of: str) -> str:
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[:_MAX_NAME]}-{hashlib.blake2b(of.encode(), digest_size=4).hexdigest()}"


def combine_variants(sets: Sequence[str], variants: Sequence[str]) -> list[Variant]:
    """All combinations.

    Parameters
    ----------
    sets
        Each ``key=value`` or ``key=value,value,...``. Commas inside brackets and quotes belong to a value.
    variants
        Each a list of ``key=value`` separated by blanks, possibly empty: the recipe as it is.

    Raises
    ------
    UsageError
        An override that is no ``key=value``, an open quote, a key that two options set, a variant that is given twice.
    """
    grid = [_alternatives(text) for text in sets]
    explicit = [_split_words(text) for text in variants] or [()]
    common = tuple(values[0] for values in grid if len(values) == 1)
    axes = [values for values in grid if len(values) > 1]
    count = len(explicit) * math.prod(len(values) for values in axes)
    if count > _MAX_HEADS:
        raise UsageError(f"{count:,} variants, of up to {_MAX_HEADS:,} in one sweep", hint="try fewer values at a time")
    combined = [Variant(common, (*chosen, *point)) for chosen in explicit for point in itertools.product(*axes)]
    for variant in combined:
        _check_keys(variant)
    names = [variant.name for variant in combined]
    twice = next((variant for variant in combined if names.count(variant.name) > 1), None)
    if twice is not None:
        raise UsageError(f"two variants would have the folder {twice.name}", hint="name every value once")
    return combined


def parse_seeds(text: str) -> list[int]:
    """``0,1,2``, ``0-4`` or both: ``0-2,7``, in the order given.

    Raises
    ------
    UsageError
        Something else, a seed that is given twice, or a range that ends before it begins.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None:
            raise UsageError(f"--seeds {text}: '{part}' is no seed", hint="for example --seeds 0,1,2 or --seeds 0-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first + len(seeds) >= _MAX_HEADS:
            raise UsageError(f"--seeds {text}: '{part}' is no range of up to 1000 seeds", hint="for example 0-4")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text}: a seed is there twice", hint="name every seed once")
    return seeds


def check_shared(specs: Sequence[RunSpec]) -> None:
    """Make sure that these heads take the same batches, and that each has a folder of its own.

    Layers, methods, learning rates and numbers of epochs may differ.

    Raises
    ------
    UsageError
        No heads, two heads for one folder, or a setting that heads of one pass must have in common.
    """
    check_folders(specs)
    first = specs[0]
    for key, value_of in _COMMON.items():
        different = next((spec for spec in specs if value_of(spec.recipe) != value_of(first.recipe)), None)
        if different is not None:
            raise UsageError(
                f"heads that share a pass over the store must have the same {key}: it is {value_of(first.recipe)} in "
                f"'{first.name}' and {value_of(different.recipe)} in '{different.name}'",
                hint=f"train the heads of each {key} by a command of their own",
            )


def check_folders(specs: Sequence[RunSpec]) -> None:
    """Make sure that each head has a folder of its own. Raises UsageError where two have one, or there is no head."""
    if not specs:
        raise UsageError("there is no head to train", hint="name at least one seed")
    folders = [spec.out for spec in specs]
    twice = next((spec for spec in specs if folders.count(spec.out) > 1), None)
    if twice is not None:
        raise UsageError(f"two heads would be trained in {twice.out}", hint="name every seed and every variant once")


def shared_settings(recipe: Recipe) -> tuple[object, ...]:
    """What heads of one pass have in common."""
    return tuple(value_of(recipe) for value_of in _COMMON.values())


def _split_words(text: str) -> tuple[str, ...]:
    """A variant's overrides; quotes keep blanks together, as in a shell."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--variant '{text}': {error}", hint='for example --variant "lcd.k_visual=2"') from error


def _alternatives(text: str) -> list[str]:
    """``key=a,b`` as ``["key=a", "key=b"]``."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: must be key=value or key=value,value", hint="for example lcd.k_visual=1,2")
    return [f"{key.strip()}={value}" for value in _split_outside(values)]


def _split_outside(text: str) -> Iterator[str]:
    """Parts between commas that are outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def _check_keys(variant: Variant) -> None:
    keys = [override.partition("=")[0].strip() for override in variant.overrides]
    wrong = next((text for text in variant.overrides if "=" not in text), None)
    if wrong is not None:
        raise UsageError(f"'{wrong}' in a variant must be key=value", hint='for example --variant "lcd.k_visual=2"')
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"two options of the sweep set {twice}", hint="set each key in one place")
