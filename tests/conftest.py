"""Nothing that a test does is remembered on the computer that it runs on."""

import pytest
import torch
from hypothesis import settings

from mettle_cache.pipelines.extract.memory import FOLDER_VARIABLE

# the tests of every change try fewer examples, `make test-slow` many more
settings.register_profile("fast", max_examples=40)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("fast")


@pytest.fixture(scope="session", autouse=True)
def forgetful(tmp_path_factory):
    """What the tests' extractions remember of media and weights is theirs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("memory")))
        yield


def pytest_collection_modifyitems(items):
    """Tests for a GPU are skipped, and say so, where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
