"""The stages of extraction, overlapping: decode in threads, forward passes, encode, write in threads.

A fixed number of groups is under way at any time, so memory does not grow with the data set. Threads do it all: the
work is in libraries that release the interpreter, and a task graph of dask's would add a scheduler and no overlap.
dask.distributed comes in where clips leave this process (``cluster.py``).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import LayerTokens

WRITERS = 2
# groups that are decoded, waiting or being written while the passes run
AHEAD = 3


@dataclass(frozen=True)
class Outcome:
    """The outcome of one clip: ``nbytes`` written, or the reason why it could not be extracted.

    ``peak_memory`` is the peak of the process until then, where it is not the caller's process.
    """

    index: int
    nbytes: int = 0
    error: str | None = None
    peak_memory: int = 0


@dataclass(frozen=True)
class _Group:
    """One forward pass under way: its clips' decoding, its encoding, and the write of each clip."""

    clips: dict[int, Future[PreparedClip]]
    writes: list[Future[Outcome]]


def stream_clips(
    extractor: Extractor, writer: StoreWriter, indexes: Sequence[int], stop: threading.Event
) -> Iterator[Outcome]:
    """Extract clips and commit them; yields each outcome in order of the groups.

    After ``stop`` is set no forward pass begins, what is being written gets committed, and the iterator ends.

    Raises
    ------
    StoreError, NoRoomError
        The store cannot be written; what is committed stays.
    """
    waiting = deque(extractor.groups(indexes))
    under_way: deque[_Group] = deque()
    with _executors(extractor) as (decoders, passes, writers):
        while (waiting or under_way) and not stop.is_set():
            while waiting and len(under_way) < extractor.passes_at_once + AHEAD:
                under_way.append(_submit(extractor, writer, waiting.popleft(), decoders, passes, writers))
            for write in under_way.popleft().writes:
                yield write.result()
        for executor in (decoders, passes, writers):
            executor.shutdown(wait=False, cancel_futures=True)
    for group in under_way:
        yield from (write.result() for write in group.writes if not write.cancelled() and not _was_cut_off(write))


@contextmanager
def _executors(extractor: Extractor) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Threads for decoding, forward passes and writing."""
    executors = (
        ThreadPoolExecutor(extractor.passes_at_once + 1, "decode"),
        ThreadPoolExecutor(extractor.passes_at_once, "forward"),
        ThreadPoolExecutor(WRITERS, "write"),
    )
    with reproducible_passes(extractor.device):
        try:
            yield executors
        finally:
            for executor in executors:
                executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def reproducible_passes(device: torch.device) -> Iterator[None]:
    """Set the whole process so that passes in several threads give the same bytes as one after another.

    On a CPU PyTorch keeps to one thread a pass (extractor.py says why). On a GPU each pass switches cuDNN to its
    deterministic kernels and back; that they are on already keeps one pass from switching them off under another.
    """
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
            yield
        else:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
    finally:
        torch.set_num_threads(threads)


def _submit(
    extractor: Extractor,
    writer: StoreWriter,
    indexes: Sequence[int],
    decoders: ThreadPoolExecutor,
    passes: ThreadPoolExecutor,
    writers: ThreadPoolExecutor,
) -> _Group:
    clips = {index: decoders.submit(extractor.prepare, index) for index in indexes}
    codes = passes.submit(_encode, extractor, clips)
    return _Group(clips, [writers.submit(_write, extractor, writer, index, clips[index], codes) for index in indexes])


def _encode(extractor: Extractor, clips: dict[int, Future[PreparedClip]]) -> dict[int, dict[str, LayerTokens]]:
    readable = [clip.result() for clip in clips.values() if not isinstance(clip.exception(), MediaError)]
    return extractor.encode(readable) if readable else {}


def _write(
    extractor: Extractor,
    writer: StoreWriter,
    index: int,
    clip: Future[PreparedClip],
    codes: Future[dict[int, dict[str, LayerTokens]]],
) -> Outcome:
    trouble = clip.exception()
    if isinstance(trouble, MediaError):
        reason = extractor.describe(trouble)
        writer.fail_clip(index, reason)
        return Outcome(index, error=reason)
    # popped, so that the codes are freed when they are written and not when the whole group is
    return Outcome(index, writer.write_clip(index, codes.result().pop(index), source=clip.result().source))


def _was_cut_off(write: Future[Outcome]) -> bool:
    """Whether a write ended because the forward pass that it waited for was cancelled."""
    return isinstance(write.exception(), CancelledError)
