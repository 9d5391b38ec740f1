"""What comes of a run: its score on a split beside the paper's row, its predictions, and a folded head to take along.

No backbone is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mettle_cache.pipelines.evaluate.evaluation import evaluate, evaluate_runs
    from mettle_cache.pipelines.evaluate.export import export_run, load_exported

__all__ = ["evaluate", "evaluate_runs", "export_run", "load_exported"]

_MODULES = {
    "evaluate": "evaluation",
    "evaluate_runs": "evaluation",
    "export_run": "export",
    "load_exported": "export",
}


def __getattr__(name: str) -> object:
    """Load what is public when it is used: to score a run takes nothing of what folds it."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
