"""Stage one: run the frozen backbones once, and keep every layer's tokens.

The modules load when a name is first used, so that a wrong argument is refused without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.config import ExtractConfig, ExtractReport
    from mettle_cache.pipelines.extract.plan import PlanReport, make_plan
    from mettle_cache.pipelines.extract.run import extract
    from mettle_cache.pipelines.signals import InterruptedRunError

_MODULES = {
    "ExtractConfig": "config",
    "ExtractReport": "config",
    "InterruptedRunError": "run",
    "PlanReport": "plan",
    "extract": "run",
    "make_plan": "plan",
}

__all__ = ["ExtractConfig", "ExtractReport", "InterruptedRunError", "PlanReport", "extract", "make_plan"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
