"""Nothing that a test does is remembered on the computer that it runs on."""

import pytest
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
