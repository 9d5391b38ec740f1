"""Using a trained run: score it on a split beside the paper's row, write its predictions, export a folded head.

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
    """Load a public name when it is used: scoring a run needs no code that folds it."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
