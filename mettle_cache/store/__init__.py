"""The cache format: encode, write, commit, read and verify every layer's tokens. Specified in FORMAT.md.

The names load at their first use: what a store is, or that there is none, can be said without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mettle_cache.store.catalog import describe_store, find_stores
    from mettle_cache.store.format.codecs import CODECS, get_codec
    from mettle_cache.store.format.spec import StoreSpec
    from mettle_cache.store.reading.clip_check import Problem
    from mettle_cache.store.reading.dataset import TokenDataset
    from mettle_cache.store.reading.disk_speed import measure_read_speed
    from mettle_cache.store.reading.token_store import TokenStore
    from mettle_cache.store.verify import VerifyReport, repair_store, verify_store
    from mettle_cache.store.writing.writer import StoreReport, StoreWriter

__all__ = [
    "CODECS",
    "Problem",
    "StoreReport",
    "StoreSpec",
    "StoreWriter",
    "TokenDataset",
    "TokenStore",
    "VerifyReport",
    "describe_store",
    "find_stores",
    "get_codec",
    "measure_read_speed",
    "repair_store",
    "verify_store",
]

_MODULES = {
    "catalog": ("describe_store", "find_stores"),
    "format.codecs": ("CODECS", "get_codec"),
    "format.spec": ("StoreSpec",),
    "reading.clip_check": ("Problem",),
    "reading.dataset": ("TokenDataset",),
    "reading.disk_speed": ("measure_read_speed",),
    "reading.token_store": ("TokenStore",),
    "verify": ("VerifyReport", "repair_store", "verify_store"),
    "writing.writer": ("StoreReport", "StoreWriter"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
