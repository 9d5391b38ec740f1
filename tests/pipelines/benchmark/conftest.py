"""Benches whose measurements are processes of their own: forked from one that has loaded the libraries, or new ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mettle_cache.pipelines.benchmark import memory, step_child
from mettle_cache.pipelines.benchmark.costs import child
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.registry import run_bench

# nothing has been computed in it, so no thread runs that a fork would lack
SERVER = """
import json, os, sys
import torch._dynamo
from mettle_cache.pipelines.benchmark import memory, step_child
from mettle_cache.pipelines.benchmark.costs import child
for line in sys.stdin:
    module, request = json.loads(line)
    if os.fork() == 0:
        answer = {made.MODULE: made.work for made in (memory, step_child, child)}[module](request)
        print(json.dumps(answer), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="session")
def call_in_fork():
    """As ``call_in_child``, without the seconds that a new process loads libraries."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], text=True, **pipes) as server:

        def call(module, request):
            server.stdin.write(json.dumps([module, request]) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield call
        server.stdin.close()


@pytest.fixture(scope="module", params=["forked", pytest.param("new", marks=pytest.mark.slow)])
def tiny_bench(request, tmp_path_factory):
    """Run a bench by its name on toy shapes, with further options; it leaves nothing in its folder."""

    def run(name, **options):
        folder = tmp_path_factory.mktemp("bench")
        with pytest.MonkeyPatch.context() as patch:
            if request.param == "forked":
                for module in (memory, step_child, child):
                    patch.setattr(module, "call_in_child", request.getfixturevalue("call_in_fork"))
            table = run_bench(name, BenchOptions(repeats=1, tiny=True, folder=folder, device="cpu", **options))
        assert list(folder.iterdir()) == []
        return table

    return run
