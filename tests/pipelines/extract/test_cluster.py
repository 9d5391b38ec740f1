"""Extraction over dask.distributed: the same bytes, through dying workers and absent schedulers."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import MachineError, NoRoomError, StoreKeyError, UsageError
from mettle_cache.pipelines.extract import cluster
from mettle_cache.pipelines.extract.cluster import (
    GROUPS_A_TASK,
    connect,
    divide_into_tasks,
    signals_kept_from_children,
    whole_units,
)
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.run import InterruptedRunError, extract
from mettle_cache.pipelines.extract.stream import Outcome
from mettle_cache.pipelines.signals import stop_on_signals
from tests.pipelines.extraction import tiny, tree, write_clips
from tests.pipelines.listener import Listener


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=4), max_size=60), st.integers(1, 20))
def test_tasks_hold_whole_groups_in_order(groups, workers):
    tasks = divide_into_tasks(groups, workers)
    assert [index for task in tasks for index in task] == [index for group in groups for index in group]
    assert all(0 < len(task) <= 4 * GROUPS_A_TASK for task in tasks)
    assert len(tasks) >= min(len(groups), 4 * workers) or len(groups) < 8 * workers


@given(st.sets(st.integers(0, 200)), st.integers(1, 8), st.integers(1, 20))
def test_a_task_holds_whole_shards_and_whole_groups(indexes, clips_a_batch, clips_each):
    units = whole_units(sorted(indexes), math.lcm(clips_a_batch, clips_each))
    assert [index for unit in units for index in unit] == sorted(indexes)
    for size in (clips_a_batch, clips_each):
        together = [{index // size for index in unit} for unit in units]
        assert sum(map(len, together)) == len(set().union(*together))


def ended(result=None, error=None):
    future = Future()
    future.set_exception(error) if error else future.set_result(result)
    return future


def killed():
    from distributed import KilledWorker

    return KilledWorker("task", None, 3)


def test_clips_of_a_task_that_kills_workers_are_tried_one_by_one():
    assert cluster._collect(ended(error=killed()), [4, 5, 6]) == ([], [[4], [5], [6]])


def test_a_clip_that_kills_workers_by_itself_has_failed():
    (outcome,), again = cluster._collect(ended(error=killed()), [5])
    assert (outcome.index, again) == (5, [])
    assert "died" in outcome.error


def test_results_and_other_errors_pass_through():
    outcomes = [Outcome(1, 7), Outcome(2, error="broken")]
    assert cluster._collect(ended(outcomes), [1, 2]) == (outcomes, [])
    with pytest.raises(NoRoomError, match="full"):
        cluster._collect(ended(error=NoRoomError("full")), [1, 2])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://no-such-host.invalid:8786"])
def test_an_absent_scheduler_is_a_clear_error(tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    root = write_clips(tmp_path / "AVE", train=1)
    with pytest.raises(UsageError, match="no dask scheduler answers at") as caught:
        extract(tiny(root, tmp_path / "s.zarr", scheduler=address))
    assert "dask worker" in caught.value.hint


def test_what_listens_and_says_nothing_is_no_scheduler(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match="says nothing for 1"):
            cluster.check_scheduler(address)


def test_a_worker_without_this_package_is_a_clear_error():
    missing = ModuleNotFoundError("No module named 'mettle_cache'")
    with pytest.raises(UsageError, match="cannot import what it needs: No module named") as caught:
        cluster._collect(ended(error=missing), [1])
    assert "environment with mettle-cache" in caught.value.hint


class Cluster:
    """A client of a cluster whose scheduler answers this, or raises it."""

    scheduler = SimpleNamespace(identity=None)

    def __init__(self, *answers):
        self.answers = list(answers)

    def sync(self, ask, *, n_workers, callback_timeout):
        return {"workers": dict.fromkeys(range(self.answers.pop(0)))}


@pytest.mark.parametrize("error", [RuntimeError("Nanny failed to start."), OSError(11, "no more processes")])
def test_a_worker_that_ends_as_it_starts_is_a_clear_error(tmp_path, monkeypatch, error):
    def fail(**options):
        raise error

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with (
        pytest.raises(MachineError, match="2 worker processes could not be started") as caught,
        connect(ExtractConfig(dataset="ave", root=tmp_path, workers=2)),
    ):
        pass
    assert "fewer --workers" in caught.value.hint


def test_workers_may_come_and_go_but_not_stay_away(monkeypatch):
    now = iter([0, 10, 70, 80, 139, 141])
    monkeypatch.setattr(cluster.time, "monotonic", lambda: next(now))
    workers = cluster.WorkerCount(Cluster(3, 0, 2, 0, 0))
    assert [workers.now() for _ in range(4)] == [3, 1, 2, 1]
    with pytest.raises(MachineError, match="every dask worker is gone"):
        workers.now()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("cluster") / "AVE", train=20, val=2, test=2)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "store.zarr"
    extract(tiny(root, out))
    return out


def in_a_worker(root, out, **changes):
    """The configuration as a task gets it."""
    return tiny(root.resolve(), out.resolve(), workers=1, device="cpu", **changes)


def test_a_task_writes_the_bytes_of_one_process(root, whole, tmp_path):
    out = tmp_path / "s.zarr"
    extract(tiny(root, out, part=(0, 2)))
    (done, last) = sorted(cluster.extract_task(in_a_worker(root, out), [12, 23]), key=lambda outcome: outcome.index)
    assert (done.index, last.index, done.error) == (12, 23, None)
    assert last.peak_memory > 10_000_000
    report = extract(tiny(root, out))
    assert (report.skipped, report.written) == (14, 10)
    assert tree(out) == tree(whole)


def test_a_worker_that_would_write_other_bytes_is_refused(root, whole):
    before = tree(whole)
    with pytest.raises(StoreKeyError, match="digest"):
        cluster.extract_task(in_a_worker(root, whole, seed=1), [3])
    assert tree(whole) == before


def test_workers_elsewhere_get_absolute_places(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    config = tiny(root, tmp_path, visual="test_vit=w.pth", audio="shared")
    extractor = SimpleNamespace(dataset=SimpleNamespace(root=Path("data")), device=torch.device("cpu"))
    located = cluster.locate(config, extractor, Path("s.zarr"))
    assert (located.root, located.out) == (tmp_path / "data", tmp_path / "s.zarr")
    assert located.visual == f"test_vit={tmp_path / 'w.pth'}"
    assert (located.audio, located.device) == ("shared", "cpu")


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_process(root, whole, tmp_path):
    listener = Listener()
    report = extract(tiny(root, tmp_path / "s.zarr", workers=2), listener)
    assert (report.written, report.failed, report.finished) == (24, 0, True)
    assert listener.done == 24
    assert listener.nbytes == report.nbytes
    assert report.peak_memory > 10_000_000
    assert tree(tmp_path / "s.zarr") == tree(whole)


@pytest.mark.slow
def test_a_users_cluster_writes_the_same_bytes(root, whole, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, scheduler_port=0) as theirs:
        report = extract(tiny(root, tmp_path / "s.zarr", scheduler=theirs.scheduler_address))
    assert report.ok
    assert tree(tmp_path / "s.zarr") == tree(whole)


def kill_one_worker(out):
    """Wait for the first commit, then kill -9 a process that writes."""
    deadline = time.monotonic() + 120
    while not list((out / "commits").glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [child for child in psutil.Process().children() if child.num_threads() > 5]
    os.kill(workers[0].pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_dead_workers_clips_are_done_by_another(root, whole, tmp_path):
    out = tmp_path / "s.zarr"
    killer = threading.Thread(target=kill_one_worker, args=(out,))
    killer.start()
    report = extract(tiny(root, out, workers=2))
    killer.join()
    assert (report.written, report.failed, report.finished) == (24, 0, True)
    assert tree(out) == tree(whole)


class Impatient(Listener):
    def advance(self, n=1, *, nbytes=0):
        super().advance(n, nbytes=nbytes)
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_lost_scheduler_is_a_clear_error_and_the_store_goes_on(root, whole, tmp_path):
    out = tmp_path / "s.zarr"
    with ExitStack() as cleanup:

        def start(*words):
            child = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            cleanup.callback(child.communicate)
            cleanup.callback(child.kill)
            return child

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = f"tcp://127.0.0.1:{port}"
        scheduler = start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"
        )
        start("distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard")

        class Killer(Listener):
            def advance(self, n=1, *, nbytes=0):
                scheduler.kill()

        started = time.monotonic()
        with pytest.raises(MachineError, match=f"dask scheduler {address} is lost") as caught:
            extract(tiny(root, out, scheduler=address), Killer())
        assert time.monotonic() - started < 120
        assert "run the same command again" in caught.value.hint
    assert extract(tiny(root, out)).skipped >= 1
    assert tree(out) == tree(whole)


@pytest.mark.slow
def test_ctrl_c_leaves_a_store_that_resumes(root, whole, tmp_path):
    out = tmp_path / "s.zarr"
    with pytest.raises(InterruptedRunError, match="clips to go"):
        extract(tiny(root, out, workers=2), Impatient())
    report = extract(tiny(root, out))
    assert report.skipped >= 1
    assert tree(out) == tree(whole)


def test_children_do_not_see_the_terminals_signals_but_this_process_does():
    wait = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with stop_on_signals() as stop, ExitStack() as cleanup:
        with signals_kept_from_children():
            child = cleanup.enter_context(subprocess.Popen(wait, stdout=subprocess.PIPE, text=True))
            cleanup.callback(child.kill)
            assert child.stdout.readline() == "up\n"
            # another thread of this process may take it at once: only the children are promised anything
            os.kill(os.getpid(), signal.SIGINT)
        # which would not wake this one from a long wait
        assert any(stop.wait(0.01) for _ in range(500))
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
