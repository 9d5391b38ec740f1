"""Another codec for a store that is there.

The modules load when a name is first used, so that a wrong argument is refused without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mettle_cache.pipelines.recode.config import RecodeConfig, RecodeReport
    from mettle_cache.pipelines.recode.run import recode

_MODULES = {"RecodeConfig": "config", "RecodeReport": "config", "recode": "run"}

__all__ = ["RecodeConfig", "RecodeReport", "recode"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
