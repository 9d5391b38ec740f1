"""Stores to train on."""

import pytest

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
