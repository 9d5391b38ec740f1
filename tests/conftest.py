"""Nothing that a test does is remembered on the computer that it runs on."""

import pytest

from mettle_cache.pipelines.extract.memory import FOLDER_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def forgetful(tmp_path_factory):
    """What the tests' extractions remember of media and weights is theirs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("memory")))
        yield
