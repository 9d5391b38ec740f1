"""Stage two: heads learn from a store's tokens. No backbone is loaded.

A :class:`~mettle_cache.pipelines.train.run.Run` is one head in training. Those that share a pass over the store take
each batch in turn (``loop``), which the ``sample_loader`` reads; ``training`` puts the two together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.recipe import load_recipe
    from mettle_cache.pipelines.train.spec import RunSpec
    from mettle_cache.pipelines.train.training import train, train_runs

__all__ = ["RunSpec", "load_recipe", "train", "train_runs"]

_MODULES = {"RunSpec": "spec", "load_recipe": "recipe", "train": "training", "train_runs": "training"}


def __getattr__(name: str) -> object:
    """Load what is public when it is used: a command that only reads a recipe need not wait for PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
