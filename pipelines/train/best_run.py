"""A trained run rebuilt: its task on a store, and the weights of its best epoch."""

from __future__ import annotations

import torch

from mettle_cache.pipelines.train.kept_companions import kept_companions
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store.reading.token_source import TokenSource


def best_run(folder: RunFolder, config: RunConfig, store: TokenSource, device: torch.device) -> tuple[Run, int]:
    """The run of a folder, whose record is ``config``, and the number of its best epoch, counted from 1.

    What the run keeps beside its weights is taken from the folder, so the store need not have it any more.

    Raises
    ------
    UsageError
        The recipe does not fit the store.
    RunError
        The run has not finished an epoch, or is damaged.
    """
    recipe = config.load_recipe()
    run = Run(bind_task(recipe, store, kept_companions(folder)), recipe.train, seed=config.seed, device=device)
    return run, run.load_best(folder)
