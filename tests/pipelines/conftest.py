"""Stores to train on."""

import pytest

from mettle_cache.methods.registry import METHODS
from mettle_cache.registry import MethodRow
from tests.pipelines.tiny_store import write_tiny_store


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """``tiny_store(train, val, test, **changes)``: a finished store; the same arguments give the same one."""
    written = {}

    def make(*counts, **changes):
        name = repr((counts, sorted(changes.items(), key=lambda item: item[0])))
        if name not in written:
            written[name] = write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny.zarr", *counts, **changes)
        return written[name]

    return make


@pytest.fixture
def mean_method():
    """A method that this package does not have, registered as ``mean``."""
    METHODS.register(MethodRow("mean", "tests.pipelines.mean_method:KIND"))
    yield
    METHODS.unregister("mean")


@pytest.fixture
def pooled_method():
    """One that reads layers on a coarser grid, registered as ``pooled``."""
    METHODS.register(MethodRow("pooled", "tests.pipelines.pooled_method:KIND"))
    yield
    METHODS.unregister("pooled")
