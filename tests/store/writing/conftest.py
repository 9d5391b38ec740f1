"""Where a test writes its store, and what a store holds that nothing interrupted."""

import pytest

from tests.store.tiny import contents, write_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The bytes of every file by name."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    write_store(path)
    return contents(path)
