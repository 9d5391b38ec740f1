"""Extraction on a dask.distributed cluster: local processes, or the user's own cluster.

Each task is a run of clips that goes through the same stream as on one machine, in a worker that builds its backbones
once and writes its own clips. What a dead worker had committed is kept; what it had not is tried again elsewhere.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mettle_cache.backbones import parse_backbone
from mettle_cache.devices import available_cores, peak_resident
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    build_extractor,
    open_config_dataset,
    store_spec,
)
from mettle_cache.pipelines.extract.pilot import with_static_arrays
from mettle_cache.pipelines.extract.refresh import without_deleted
from mettle_cache.pipelines.extract.stream import Outcome, stream_clips
from mettle_cache.preprocessing import SHARED
from mettle_cache.store.writing.writer import StoreWriter

if TYPE_CHECKING:
    from distributed import Client, Future

GROUPS_A_TASK = 8
POLL_SECONDS = 0.2
CONNECT_SECONDS = 10
# a user's worker may run several tasks at once, but has one device and one set of cores
_ONE_AT_A_TIME = threading.Lock()


def cluster_clips(
    config: ExtractConfig, extractor: Extractor, writer: StoreWriter, indexes: Sequence[int], stop: threading.Event
) -> Iterator[Outcome]:
    """Extract clips on the cluster that ``config`` names; yields each clip's outcome as its task ends.

    A clip on which workers keep dying has failed. After ``stop`` is set nothing more is handed out; what
    workers still commit counts in the next run.

    Raises
    ------
    UsageError
        No scheduler answers, or it has no workers.
    StoreError, NoRoomError
        A worker cannot write the store.
    """
    where = locate(config, extractor, writer.path)
    under_way: dict[Future, list[int]] = {}
    with connect(config) as client:
        waiting = divide_into_tasks(extractor.groups(indexes), count_workers(client))
        try:
            while (waiting or under_way) and not stop.is_set():
                # one task a worker: whatever a dead worker had queued would count as suspicious too
                while waiting and len(under_way) < count_workers(client):
                    clips = waiting.popleft()
                    under_way[client.submit(extract_task, where, clips, pure=False)] = clips
                for future in _wait_for_some(list(under_way)):
                    done, again = _collect(future, under_way.pop(future))
                    waiting.extendleft(again)
                    yield from done
        finally:
            client.cancel(list(under_way))


def extract_task(config: ExtractConfig, indexes: Sequence[int]) -> list[Outcome]:
    """Extract clips in this worker process and commit them to the store that ``config.out`` names.

    Raises
    ------
    StoreKeyError
        This worker would not write the bytes that the store is for.
    """
    assert config.out is not None, "cluster_clips names the store"
    with _ONE_AT_A_TIME:
        extractor = with_static_arrays(_worker_extractor(config), config.out)
        # not a mere join: a worker with other weights or libraries would write other bytes, and is refused here
        spec = without_deleted(store_spec(extractor, config), config.out)
        with StoreWriter.create_or_resume(config.out, spec) as writer:
            outcomes = list(stream_clips(extractor, writer, indexes, threading.Event()))
        return [replace(outcome, peak_memory=peak_resident()) for outcome in outcomes]


def locate(config: ExtractConfig, extractor: Extractor, store: Path) -> ExtractConfig:
    """The configuration with absolute paths, which hold in another working directory too."""
    return replace(
        config,
        root=extractor.dataset.root.resolve(),
        out=store.resolve(),
        visual=_located(config.visual),
        audio=_located(config.audio),
        device=config.device or extractor.device.type,
    )


def _located(backbone: str) -> str:
    choice = parse_backbone(backbone)
    if choice.name == SHARED:
        return backbone
    path = Path(choice.weights).expanduser()
    return f"{choice.name}={path.resolve()}" if path.is_file() else backbone


def divide_into_tasks(groups: Sequence[Sequence[int]], workers: int) -> deque[list[int]]:
    """Clips by task: whole groups, at most ``GROUPS_A_TASK``, and some tasks for every worker where there are enough.

    With few groups a task the workers end at about the same time; with many, starting the streams costs less.
    """
    size = max(1, min(GROUPS_A_TASK, len(groups) // (4 * workers)))
    tasks = (groups[start : start + size] for start in range(0, len(groups), size))
    return deque([index for group in task for index in group] for task in tasks)


def count_workers(client: Client) -> int:
    """Workers of the cluster now; 1 while there are none, so that work waits for the first."""
    return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


def _wait_for_some(futures: list[Future]) -> list[Future]:
    """Futures that have ended, after a moment at most."""
    from distributed import wait

    try:
        return list(wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _collect(future: Future, clips: list[int]) -> tuple[list[Outcome], list[list[int]]]:
    """A task's outcomes, and what has to be tried again, each clip by itself, because workers died of the task.

    Raises whatever else the task raised.
    """
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result(), []
    if not isinstance(error, KilledWorker):
        raise error
    if len(clips) > 1:
        return [], [[clip] for clip in clips]
    return [Outcome(clips[0], error="every worker that tried this clip died")], []


@lru_cache(maxsize=1)
def _worker_extractor(config: ExtractConfig) -> Extractor:
    if config.workers:
        cores = max(1, available_cores() // config.workers)
    else:
        from distributed import get_worker

        cores = get_worker().state.nthreads
    return build_extractor(config, open_config_dataset(config), device=_worker_device(config), cores=cores)


def _worker_device(config: ExtractConfig) -> torch.device:
    """The device of this worker: the GPUs of a machine go to its workers in turn."""
    if config.device == "cuda" and torch.cuda.device_count() > 1:
        from distributed import get_worker

        name = get_worker().name
        return torch.device("cuda", name % torch.cuda.device_count() if isinstance(name, int) else 0)
    return torch.device(config.device or "cpu")


@contextmanager
def connect(config: ExtractConfig) -> Iterator[Client]:
    """A client of the user's cluster, or of one of ``config.workers`` processes that lives as long as this.

    Raises
    ------
    UsageError
        No scheduler answers at that address.
    """
    from distributed import Client, LocalCluster

    if config.scheduler is None:
        with signals_kept_from_children():
            # spawned, not forked: threads and a loaded PyTorch do not survive a fork. The stream bounds the memory
            local = LocalCluster(
                n_workers=config.workers,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.ERROR,
            )
        with local, Client(local) as client:
            yield client
        return
    try:
        client = Client(config.scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no dask scheduler answers at {config.scheduler}: {error}",
            hint="start one with `dask scheduler` and workers with `dask worker ADDRESS`, or use --workers N",
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise UsageError(
                f"the dask scheduler at {config.scheduler} has no workers",
                hint=f"start some: `dask worker {config.scheduler}`, in an environment with mettle-cache",
            ) from error
        yield client


@contextmanager
def signals_kept_from_children() -> Iterator[None]:
    """Processes that are started in here, or later by a thread that is, never see a SIGINT or SIGTERM.

    A terminal sends Ctrl-C to every process of a command; the one that coordinates must be the only one to act on it.
    What arrives meanwhile is delivered at the end.
    """
    # it unblocks both signals when it starts, so it must be running already
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
