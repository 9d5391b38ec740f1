"""Put a recipe's task on a store: which layers, which samples, which categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mettle_cache.errors import RunError, UsageError
from mettle_cache.layers import select_layers
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.sample_loader import Feed, Split, common_inputs, evaluation_inputs
from mettle_cache.pipelines.train.trainee import Trainee
from mettle_cache.tasks.protocol import Predictions, Task
from mettle_cache.tasks.registry import get_task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def open_store(store: Path | TokenStore) -> TokenStore:
    """The store itself, opened if it is given by its path."""
    if isinstance(store, Path):
        from mettle_cache.store.reading.token_store import TokenStore  # zarr takes long to import

        return TokenStore.open(store)
    return store


def bind_task(recipe: Recipe, store: TokenStore) -> Task:
    """The recipe's task on this store.

    Raises
    ------
    UsageError
        The task is not for the store's data set, or the recipe selects layers that the store has not.
    """
    kind = get_task(recipe.task)
    if store.dataset not in kind.datasets:
        raise UsageError(
            f"recipe {recipe.name} is for {recipe.task}, which does not take the data set '{store.dataset}'",
            hint=f"{recipe.task} takes: {', '.join(kind.datasets)}",
        )
    missing = [name for name in kind.sample_schema.names if name not in store.samples.column_names]
    if missing:
        raise UsageError(f"{store.path}: its samples have no {', '.join(missing)}, which {recipe.task} reads")
    return kind(
        select_layers(store.layers, recipe.layers),
        samples=store.samples,
        vocabulary=store.vocabulary,
        segments=store.segments,
        method=recipe.method_choice(),
        options=recipe.head,
    )


def predict_split(
    trainees: Sequence[Trainee], feed: Feed, split: Split, batch_size: int, progress: Progress
) -> list[Predictions | RunError]:
    """Each head's predictions for the samples of a split, in their order, from one pass over them.

    A head that fails (its outputs are not finite) has its error in their place, and the others go on.
    """
    parts: list[list[Predictions]] = [[] for _ in trainees]
    failed: dict[int, RunError] = {}
    inputs = common_inputs([evaluation_inputs(trainee.task, split.rows) for trainee in trainees])
    for batch in feed.batches(split.rows, batch_size, inputs):
        for number, trainee in enumerate(trainees):
            if number not in failed:
                try:
                    parts[number].append(trainee.predict(batch))
                except RunError as error:
                    failed[number] = error
        progress.advance(len(batch.rows), nbytes=batch.tokens.nbytes)
    return [failed[number] if number in failed else join_predictions(own) for number, own in enumerate(parts)]


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of consecutive batches as those of all their samples."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
