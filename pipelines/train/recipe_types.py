"""A recipe: everything about a training run that changes its numbers, other than the store and the seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from mettle_cache.tasks.options import STRICT, Count, LCDOptions, LinearOptions, MethodOptions


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Optimiser, schedule and order (Table 13).

    ``batch_size`` counts samples. Adam at ``learning_rate``, times ``gamma`` every ``step_size`` epochs.
    ``precision`` is that of the method: ``auto`` is bfloat16 autocast on a GPU that has it, float32 elsewhere.
    ``order_seed`` alone decides the order of samples, apart from the run's seed, so that heads of different seeds can
    share one pass over a store and still get the numbers that each would get alone.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    batch_size: Count = 16
    epochs: Count = 10
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    step_size: Count = 3
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.35
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    order_seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A resolved recipe. ``layers`` is a selection from the store's (``mettle_cache.layers.select_layers``).

    ``head`` is of the type that the task declares; ``lcd`` and ``linear`` are read where ``method`` says so.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    task: str
    head: Any
    method: Literal["lcd", "linear"] = "lcd"
    layers: str = "all"
    lcd: LCDOptions = field(default_factory=LCDOptions)
    linear: LinearOptions = field(default_factory=LinearOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def method_options(self) -> MethodOptions:
        return MethodOptions(name=self.method, lcd=self.lcd, linear=self.linear)

    def to_json(self) -> dict[str, object]:
        """Nested plain values; :func:`mettle_cache.pipelines.train.recipe.recipe_from_json` is the inverse."""
        # through JSON, so that a tuple is the list that it will be when it is read back
        plain: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return plain


def recipe_differences(ours: Recipe, other: Recipe) -> list[str]:
    """Keys whose values differ, names aside, each as ``key = ours instead of other's``."""
    mine, theirs = _flatten(ours.to_json()), _flatten(other.to_json())
    keys = [key for key in {**mine, **theirs} if key != "name"]
    return [f"{key} = {mine.get(key)} instead of {theirs.get(key)}" for key in keys if mine.get(key) != theirs.get(key)]


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
