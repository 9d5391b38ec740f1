"""Making a recipe's task: on a store, or on layers alone where a head is rebuilt or counted without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.tasks.protocol import Task
from mettle_cache.tasks.registry import get_task

if TYPE_CHECKING:
    import pyarrow as pa

    from mettle_cache.companions import Companion
    from mettle_cache.store.reading.token_source import TokenSource


def bind_task(recipe: Recipe, store: TokenSource, companions: Mapping[str, Companion] | None = None) -> Task:
    """The recipe's task on this store. A run's own ``companions`` take the place of the store's.

    Raises
    ------
    UsageError
        The task is not for the store's data set, the recipe selects layers that the store has not, or its method's
        options name a layer that it does not select.
    """
    task_type = get_task(recipe.task)
    # a data set that nobody here registers, of another machine perhaps, may have any task whose columns it has
    if store.dataset in DATASETS and DATASETS.row(store.dataset).task != recipe.task:
        raise UsageError(
            f"recipe {recipe.name} is for {recipe.task}, which does not take the data set '{store.dataset}'",
            hint=f"{recipe.task} takes: {', '.join(row.name for row in DATASETS if row.task == recipe.task)}",
        )
    missing = [name for name in task_type.sample_schema.names if name not in store.samples.column_names]
    if missing:
        raise UsageError(f"{store.path}: its samples have no {', '.join(missing)}, which {recipe.task} reads")
    layers = select_layers(store.layers, recipe.layers)
    method = recipe.method_choice({**store.companions, **(companions or {})})
    method.check_names(layers)
    return task_type(
        layers,
        samples=store.samples,
        vocabulary=store.vocabulary,
        segments=store.segments,
        method=method,
        options=recipe.head,
    )


def task_on_layers(
    recipe: Recipe,
    layers: Sequence[LayerSpec],
    *,
    vocabulary: Mapping[str, Sequence[str]],
    segments: int,
    companions: Mapping[str, Companion] | None = None,
    samples: pa.Table | None = None,
) -> Task:
    """The recipe's task on just these layers and samples; without a sample enough to build its model.

    Raises
    ------
    UsageError
        There is no such task, or its model cannot be built on these layers.
    """
    task_type = get_task(recipe.task)
    return task_type(
        layers,
        samples=task_type.sample_schema.empty_table() if samples is None else samples,
        vocabulary=vocabulary,
        segments=segments,
        method=recipe.method_choice(companions),
        options=recipe.head,
    )
