"""A working folder as a user has it, and the command in this process or as a process of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mettle_cache.cli.main import run
from mettle_cache.datasets.synthetic import write_demo_ave

BACKBONES = ("--visual", "test_vit@64=random", "--audio", "test_efficientnet@64=random")
EXTRACT = ("extract", "--dataset", "ave", *BACKBONES)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Twelve clips, every other one an .mp4."""
    root = tmp_path_factory.mktemp("data") / "AVE"
    write_demo_ave(root, train=6, val=3, test=3, seed=1, layout="mixed")
    return root


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory):
    """The store of an extraction that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "store.zarr"
    assert run([*EXTRACT, "--root", str(data), "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    """The current directory, with the data where they lie by default."""
    shutil.copytree(data, tmp_path / "data" / "AVE")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mettle(capsys):
    """Run one command with --json in this process: exit code, document, stderr."""

    def call(*arguments):
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        streams = capsys.readouterr()
        assert "Traceback" not in streams.err
        return code, json.loads(streams.out), streams.err

    return call


@pytest.fixture
def process():
    """Start one command as a process; whatever still runs at the end of the test is killed."""
    started = []

    def start(*arguments, **options):
        command = [sys.executable, "-m", "mettle_cache.cli.main", *map(str, arguments)]
        child = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()
