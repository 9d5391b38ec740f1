"""Run frozen backbones once, store every layer's tokens, and train small heads from the store.

    import mettle_cache as mc

    store = mc.TokenStore.open("cache/ave-swinv2_l-htsat.zarr")
    batch = store.read([0, 1])                                    # every layer's codes, [clip, T, N, D]
    head = mc.LCD([x for x in store.layers if x.modality == "visual"])
    features = head(batch.layers)                                 # [clip, T, d]

Every name loads what it needs at its first use, so ``import mettle_cache`` takes no time and loads no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mettle_cache.backbones import create_backbone
    from mettle_cache.datasets import open_dataset
    from mettle_cache.errors import (
        ConfigError,
        DatasetError,
        MachineError,
        MediaError,
        MettleError,
        NoRoomError,
        OptionsError,
        PluginError,
        RunError,
        StoreBusyError,
        StoreCorruptError,
        StoreError,
        StoreKeyError,
        StoreMissingError,
        StoreSourcesError,
        StoreUnfinishedError,
        TokensError,
        UsageError,
        WeightsError,
    )
    from mettle_cache.methods.lcd import LCD, LCDOptions
    from mettle_cache.methods.mti import MTI, MTIOptions
    from mettle_cache.pipelines.evaluate import evaluate
    from mettle_cache.pipelines.extract import ExtractConfig, extract
    from mettle_cache.pipelines.predict import Predictor
    from mettle_cache.pipelines.train import train
    from mettle_cache.store.reading.dataset import TokenDataset
    from mettle_cache.store.reading.token_store import TokenStore
    from mettle_cache.tokens import LayerTokens, TokenBatch

    __version__: str

__all__ = [
    "LCD",
    "MTI",
    "ConfigError",
    "DatasetError",
    "ExtractConfig",
    "LCDOptions",
    "LayerTokens",
    "MTIOptions",
    "MachineError",
    "MediaError",
    "MettleError",
    "NoRoomError",
    "OptionsError",
    "PluginError",
    "Predictor",
    "RunError",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreError",
    "StoreKeyError",
    "StoreMissingError",
    "StoreSourcesError",
    "StoreUnfinishedError",
    "TokenBatch",
    "TokenDataset",
    "TokenStore",
    "TokensError",
    "UsageError",
    "WeightsError",
    "__version__",
    "create_backbone",
    "evaluate",
    "extract",
    "open_dataset",
    "train",
]

_MODULES = {
    "backbones": ("create_backbone",),
    "datasets": ("open_dataset",),
    "methods.lcd": ("LCD", "LCDOptions"),
    "methods.mti": ("MTI", "MTIOptions"),
    # `mettle_cache.extract` is the function; the package of its modules is `mettle_cache.pipelines.extract`; likewise
    # the other two stages
    "pipelines.evaluate": ("evaluate",),
    "pipelines.extract": ("ExtractConfig", "extract"),
    "pipelines.predict": ("Predictor",),
    "pipelines.train": ("train",),
    "store.reading.dataset": ("TokenDataset",),
    "store.reading.token_store": ("TokenStore",),
    "tokens": ("LayerTokens", "TokenBatch"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mettle-cache")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    # without what this file itself imports
    return sorted({name for name in globals() if name.startswith("__")} | {*__all__})
