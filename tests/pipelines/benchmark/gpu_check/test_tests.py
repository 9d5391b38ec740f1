"""Running the tests that need a GPU, file by file."""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.gpu_check.tests import run

ON_CPU = Setting(device=torch.device("cpu"), tiny=True)
MARKED = "import pytest\n@pytest.mark.gpu\ndef test_one():\n    assert {}\n"


def test_files_are_told_one_by_one(tmp_path, capfd, monkeypatch):
    # the children need no plugin, and start sooner without
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    (tmp_path / "test_a.py").write_text(MARKED.format(True))
    (tmp_path / "test_b.py").write_text(MARKED.format(False))
    (tmp_path / "test_c.py").write_text("import no_such_package\n" + MARKED.format(True))
    (tmp_path / "test_d.py").write_text("def test_of_a_cpu(): pass\n")
    found = {one.what.rpartition("/")[2]: one for one in run(ON_CPU, tmp_path)}
    assert list(found) == ["test_a.py", "test_b.py", "test_c.py"]
    assert (found["test_a.py"].value, found["test_a.py"].passed) == (1, True)
    assert not found["test_b.py"].passed
    assert "assert False" in capfd.readouterr().out
    assert found["test_c.py"].note == "it lacks the package no_such_package"


def test_outside_a_checkout_it_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        list(run(ON_CPU, tmp_path / "tests"))
