"""Extraction on a dask.distributed cluster: local processes, or the user's own cluster.

Each task is the clips of whole shards, which go through the same stream as on one machine, in a worker that builds its
backbones once and writes its own clips. What a dead worker had committed is kept; what it had not is tried again
elsewhere.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import torch

from mettle_cache.backbones import parse_backbone
from mettle_cache.devices import available_cores, peak_resident
from mettle_cache.errors import MachineError, UsageError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    build_extractor,
    open_config_dataset,
    store_spec,
)
from mettle_cache.pipelines.extract.refresh import without_deleted
from mettle_cache.pipelines.extract.stream import Outcome, stream_clips
from mettle_cache.preprocessing import SHARED
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.writing.writer import StoreWriter

if TYPE_CHECKING:
    from distributed import Client, Future

GROUPS_A_TASK = 8
POLL_SECONDS = 0.2
CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
WORKERLESS_SECONDS = 60
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
        No scheduler answers, or its workers are none that can do this.
    MachineError
        The scheduler, or every worker, is lost on the way.
    StoreError, NoRoomError
        A worker cannot write the store.
    """
    where = locate(config, extractor, writer.path)
    under_way: dict[Future, list[int]] = {}
    with connect(config) as client:
        workers = WorkerCount(client)
        unit = math.lcm(extractor.clips_a_batch, writer.metadata.clips_each)
        most = max(1, GROUPS_A_TASK * extractor.clips_a_batch // unit)
        waiting = divide_into_tasks(whole_units(indexes, unit), workers.now(), most)
        try:
            while (waiting or under_way) and not stop.is_set():
                # one task a worker: whatever a dead worker had queued would count as suspicious too
                for _ in range(min(len(waiting), workers.now() - len(under_way))):
                    clips = waiting.popleft()
                    under_way[client.submit(extract_task, where, clips, pure=False)] = clips
                for future in _wait_for_some(list(under_way)):
                    done, again = _collect(future, under_way.pop(future))
                    waiting.extendleft(again)
                    yield from done
        except (OSError, CancelledError) as error:
            raise MachineError(
                f"the dask scheduler {config.scheduler or 'of the workers'} is lost: {_first_line(error)}",
                hint="start it again, with its workers, and run the same command again: what is committed stays",
            ) from error
        finally:
            with suppress(OSError, CancelledError):
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
        extractor = _worker_extractor(config)
        if extractor.codec.pilot(extractor.layers) is not None:
            # the coordinator has made the store, with its static arrays
            extractor = replace(extractor, static=load_metadata(config.out).read_static())
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
    path = Path(choice.weights)
    return f"{choice.name}={path.resolve()}" if path.is_file() else backbone


def whole_units(indexes: Sequence[int], unit: int) -> list[list[int]]:
    """The indexes by the run of ``unit`` clips that they belong to: whole shards, and whole groups of a pass."""
    units: dict[int, list[int]] = {}
    for index in indexes:
        units.setdefault(index // unit, []).append(index)
    return list(units.values())


def divide_into_tasks(units: Sequence[Sequence[int]], workers: int, most: int = GROUPS_A_TASK) -> deque[list[int]]:
    """Clips by task: whole units, at most ``most``, and some tasks for every worker where there are enough.

    With few units a task the workers end at about the same time; with many, starting the streams costs less.
    """
    size = max(1, min(most, len(units) // (4 * workers)))
    tasks = (units[start : start + size] for start in range(0, len(units), size))
    return deque([index for unit in task for index in unit] for task in tasks)


class WorkerCount:
    """How many workers a cluster has: they may come and go, but not stay away."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = time.monotonic()

    def now(self) -> int:
        """At least 1: while there are none, work waits for the first.

        Raises
        ------
        OSError
            The scheduler does not answer.
        MachineError
            There have been none for :data:`WORKERLESS_SECONDS`.
        """
        identity = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_SECONDS)
        count = len(identity["workers"])
        if count:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > WORKERLESS_SECONDS:
            raise MachineError(
                f"every dask worker is gone, for {WORKERLESS_SECONDS} seconds now",
                hint="see why in their logs, start some again, and run the same command again: what is committed stays",
            )
        return max(1, count)


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
    if isinstance(error, ImportError):
        raise UsageError(
            f"a worker cannot import what it needs: {_first_line(error)}",
            hint="start the workers in an environment with mettle-cache and the same packages as here",
        ) from error
    if not isinstance(error, KilledWorker):
        raise error
    if len(clips) > 1:
        return [], [[clip] for clip in clips]
    # not in the reason, which is stored: addresses differ from run to run
    last = getattr(error.last_worker, "address", None)
    hint = f"see the log of the last one, {last}" if last else None
    return [Outcome(clips[0], error="every worker that tried this clip died", hint=hint)], []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
        No scheduler answers at that address, or it has no workers.
    MachineError
        The processes could not be started, or one of them ended as it started.
    """
    from distributed import Client, LocalCluster

    with _without_dask_logs():
        if config.scheduler is not None:
            with _connect_to(config.scheduler) as client:
                yield client
            return
        try:
            with signals_kept_from_children():
                # spawned, not forked: threads and a loaded PyTorch do not survive a fork. The stream bounds the memory
                local = LocalCluster(
                    n_workers=config.workers,
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
        except (RuntimeError, OSError) as error:
            raise MachineError(
                f"{config.workers} worker processes could not be started: {_first_line(error)}",
                hint="where memory ran out, give fewer --workers; run the same command again: what is committed stays",
            ) from error
        with local, Client(local) as client:
            yield client


@contextmanager
def _connect_to(address: str) -> Iterator[Client]:
    with _open_client(address) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise UsageError(
                f"the dask scheduler at {address} has no workers",
                hint=f"start some: `dask worker {address}`, in an environment with mettle-cache",
            ) from error
        yield client


def _open_client(address: str) -> Client:
    """A client; in a thread that is left behind where something listens there that says nothing, which dask awaits."""
    from distributed import Client

    ended: SimpleQueue[Client | Exception] = SimpleQueue()

    def open_it() -> None:
        try:
            ended.put(Client(address, timeout=CONNECT_SECONDS))
        except Exception as error:  # noqa: BLE001 - what listens at a wrong address may say anything
            ended.put(error)

    threading.Thread(target=open_it, daemon=True).start()
    try:
        client = ended.get(timeout=2 * CONNECT_SECONDS)
    except Empty:
        client = TimeoutError(f"what listens there says nothing for {2 * CONNECT_SECONDS} seconds")
    if isinstance(client, Exception):
        raise UsageError(
            f"no dask scheduler answers at {address}: {_first_line(client)}",
            hint="start one with `dask scheduler` and workers with `dask worker ADDRESS`, or use --workers N",
        ) from client
    return client


def check_scheduler(address: str) -> None:
    """Raise UsageError where no scheduler with workers answers at that address, before anything slow begins."""
    with _without_dask_logs(), _connect_to(address):
        pass


@contextmanager
def _without_dask_logs() -> Iterator[None]:
    """Keep this process's part of dask from printing tracebacks of connections: what they mean is raised."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
