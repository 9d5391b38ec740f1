"""Temporary files: refused where there is no room, removed however a bench ends."""

import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from mettle_cache.errors import ConfigError, NoRoomError
from mettle_cache.pipelines.benchmark.options import PREFIX, BenchOptions, bench_disk, bench_folder

SCRIPT = """
import signal, sys, time
from pathlib import Path
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.options import bench_folder
# a shell's background job starts with this signal ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with bench_folder(BenchOptions(folder=Path(sys.argv[1])), 10) as place:
        (place / "file").touch()
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_the_folder_is_there_and_then_gone(tmp_path):
    with bench_folder(BenchOptions(folder=tmp_path), 10) as place:
        assert place.parent == tmp_path
        assert place.name.startswith(PREFIX)
        (place / "deep" / "er").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_bench_leaves_nothing(tmp_path, number):
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        os.kill(child.pid, number)
        assert child.wait(30) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mettle_cache.store.writing.durable.shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with (
        pytest.raises(NoRoomError, match="still needs") as refused,
        bench_folder(BenchOptions(folder=tmp_path), 10**6),
    ):
        raise AssertionError("it must not begin")
    assert refused.value.hint == "give another disk with --folder, or fewer --clips"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_means_the_disk_that_it_would_be_on(tmp_path):
    assert bench_disk(BenchOptions(folder=tmp_path / "a" / "b")) == tmp_path


def test_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)--repeats 0: must be from 1.*--clips 0: must be from 1"):
        BenchOptions(repeats=0, clips=0)


def test_the_command_says_everything_but_the_folder():
    options = BenchOptions(repeats=7, clips=3, tiny=True, folder=Path("here"), device="cpu")
    assert options.command("read") == "mettle bench read --repeats 7 --clips 3 --tiny --device cpu"
    assert BenchOptions().command("read") == "mettle bench read --repeats 5"
