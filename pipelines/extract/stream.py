"""The stages of extraction, overlapping: decode in threads, forward passes, encode, write in threads.

A bounded number of clips is under way at any time, so memory does not grow with the data set. Threads do it all: the
work is in libraries that release the interpreter, and a task graph of dask's would add a scheduler and no overlap.
dask.distributed comes in where clips leave this process (``cluster.py``).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch

from mettle_cache.errors import MediaError, TokensError
from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.pipelines.extract.passes import encode_clips
from mettle_cache.pipelines.extract.sources import Look
from mettle_cache.store.writing.writer import StoreWriter

WRITERS = 2
# groups that are decoded, waiting or being written while the passes run
AHEAD = 3
# how soon a stop is seen
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """The outcome of one clip: ``nbytes`` written, or the reason why it could not be extracted, and what may help.

    ``peak_memory`` is the peak of the process until then, where it is not the caller's process. ``source`` is the
    digest of the media that were read, ``look`` how their files looked.
    """

    index: int
    nbytes: int = 0
    error: str | None = None
    peak_memory: int = 0
    hint: str | None = None
    source: str = ""
    look: Look | None = None


def stream_clips(
    extractor: Extractor, writer: StoreWriter, indexes: Sequence[int], stop: threading.Event
) -> Iterator[Outcome]:
    """Extract clips and commit them; yields each outcome as it comes. What fails is told, and not recorded.

    Soon after ``stop`` is set the iterator ends: what is being written gets committed, and nothing else is awaited. A
    forward pass that is under way, which may take minutes, ends by itself in its thread and leaves nothing behind.

    Raises
    ------
    StoreError, NoRoomError
        The store cannot be written; what is committed stays.
    MachineError, DatasetError
        The machine or its device is at an end, or the data set's folder is gone.
    """
    waiting = deque(extractor.groups(indexes))
    most = extractor.clips_a_batch * (extractor.passes_at_once + AHEAD)
    under_way = 0
    with reproducible_passes(extractor.device), _stages(extractor, writer) as stages:
        while (waiting or under_way) and not stop.is_set():
            while waiting and (not under_way or under_way + len(waiting[0]) <= most):
                under_way += len(waiting[0])
                stages.submit(waiting.popleft())
            try:
                outcome = stages.ended.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            under_way -= 1
            yield _told(outcome)
    while not stages.ended.empty():
        yield _told(stages.ended.get())


def _told(outcome: Outcome | BaseException) -> Outcome:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@contextmanager
def _stages(extractor: Extractor, writer: StoreWriter) -> Iterator[_Stages]:
    stages = _Stages(extractor, writer)
    try:
        yield stages
    finally:
        stages.close()


class _Stages:
    """The threads of the stages. Every clip that is submitted comes out of ``ended``, or else the error that ends all.

    A group's pass waits for its clips, and hands each to the writers.
    """

    def __init__(self, extractor: Extractor, writer: StoreWriter) -> None:
        self.ended: SimpleQueue[Outcome | BaseException] = SimpleQueue()
        self._extractor, self._writer = extractor, writer
        self._decoders = ThreadPoolExecutor(extractor.decoders, "decode")
        self._passes = ThreadPoolExecutor(extractor.passes_at_once, "forward")
        self._writers = ThreadPoolExecutor(WRITERS, "write")
        self._closing = False

    def submit(self, indexes: Sequence[int]) -> None:
        """Begin one group."""
        clips = {index: self._decoders.submit(self._extractor.prepare, index) for index in indexes}
        self._passes.submit(self._compute, clips)

    def close(self) -> None:
        """End soon: what the writers have is written; every other stage is left to itself and hands on nothing."""
        self._closing = True
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._passes.shutdown(wait=False, cancel_futures=True)
        self._writers.shutdown(wait=True)

    def _compute(self, clips: dict[int, Future[PreparedClip]]) -> None:
        try:
            self._hand_on(clips, self._encode(clips))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that iterates
            # a pass that nobody waits for any more finds that its clips were cancelled and the writers gone
            if not self._closing:
                self.ended.put(error)

    def _encode(self, clips: dict[int, Future[PreparedClip]]) -> dict[int, Codes | MediaError]:
        results: dict[int, Codes | MediaError] = {}
        readable = []
        for index, clip in clips.items():
            try:
                readable.append(clip.result())
            except MediaError as error:
                results[index] = error
        return results | (encode_clips(self._extractor, readable) if readable else {})

    def _hand_on(self, clips: dict[int, Future[PreparedClip]], results: dict[int, Codes | MediaError]) -> None:
        for index, clip in clips.items():
            # popped, so that the codes are freed when they are written and not when the whole group is
            self._writers.submit(self._write, index, results.pop(index), clip)

    def _write(self, index: int, result: Codes | MediaError, clip: Future[PreparedClip]) -> None:
        try:
            if not isinstance(result, MediaError):
                read = clip.result()
                nbytes = self._writer.write_clip(index, result, source=read.source)
                self.ended.put(Outcome(index, nbytes, source=read.source, look=read.look))
                return
        except TokensError as error:
            result = MediaError(error.message, hint=error.hint)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that iterates
            self.ended.put(error)
            return
        self.ended.put(Outcome(index, error=self._extractor.describe(result), hint=result.hint))


@contextmanager
def reproducible_passes(device: torch.device) -> Iterator[None]:
    """Set the whole process so that passes in several threads give the same bytes as one after another.

    On a CPU PyTorch keeps to one thread a pass (extractor.py says why); decoding does so beside any device, because
    sound becomes spectra by products. On a GPU each pass switches cuDNN to its deterministic kernels and back; that
    they are on already keeps one pass from switching them off under another.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        if device.type == "cpu":
            yield
        else:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
    finally:
        torch.set_num_threads(threads)
