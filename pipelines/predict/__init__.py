"""A new video through both stages: the one place where backbones and heads meet.

The modules load when a name is first used, so that a wrong argument is refused without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mettle_cache.pipelines.predict.config import PredictConfig, PredictReport
    from mettle_cache.pipelines.predict.files import predict_files
    from mettle_cache.pipelines.predict.predictor import Predictor

__all__ = ["PredictConfig", "PredictReport", "Predictor", "predict_files"]

_MODULES = {"PredictConfig": "config", "PredictReport": "config", "Predictor": "predictor", "predict_files": "files"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
