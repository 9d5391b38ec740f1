"""The cache format: encode, write, commit, read and verify every layer's tokens. Specified in FORMAT.md."""

from mettle_cache.store.catalog import describe_store, find_stores
from mettle_cache.store.format.codecs import CODECS, get_codec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.disk_speed import measure_read_speed
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import Problem, VerifyReport, repair_store, verify_store
from mettle_cache.store.writing.writer import StoreReport, StoreWriter

__all__ = [
    "CODECS",
    "Problem",
    "StoreReport",
    "StoreSpec",
    "StoreWriter",
    "TokenStore",
    "VerifyReport",
    "describe_store",
    "find_stores",
    "get_codec",
    "measure_read_speed",
    "repair_store",
    "verify_store",
]
