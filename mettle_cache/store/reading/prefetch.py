"""Reading batches ahead: threads fill a ring of reused buffers, in order, while the consumer uses the last batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from mettle_cache.store.reading.buffers import Allocate, Assemble, BatchBuffer, BlockRun, new_memory, pinned_memory
from mettle_cache.store.reading.device_copy import Transfer, Wait, no_wait
from mettle_cache.tokens import TokenBatch

ReadClip = Callable[[int, BatchBuffer, int], None]


@dataclass(frozen=True)
class _Filling:
    """A batch that is being read: one future a clip."""

    clips: Sequence[int]
    buffer: BatchBuffer
    reads: list[Future[None]]


class _Ring:
    """Buffers that are ``free``, each with what a reader waits for before it fills it, and those that are read into."""

    def __init__(
        self, read_clip: ReadClip, executor: ThreadPoolExecutor, depth: int, make_buffer: Callable[[int], BatchBuffer]
    ) -> None:
        self.free: deque[tuple[BatchBuffer | None, Wait]] = deque([(None, no_wait)] * depth)
        self.filling: deque[_Filling] = deque()
        self._read_clip = read_clip
        self._executor = executor
        self._make_buffer = make_buffer

    def start_reading(self, waiting: Iterator[Sequence[int]]) -> None:
        """Read the next batches into all free buffers."""
        while self.free and (clips := next(waiting, None)) is not None:
            buffer, wait = self.free.popleft()
            if buffer is None or buffer.size < len(clips):
                buffer, wait = self._make_buffer(len(clips)), no_wait
            reads = [self._executor.submit(self._read, clip, buffer, slot, wait) for slot, clip in enumerate(clips)]
            self.filling.append(_Filling(tuple(clips), buffer, reads))

    def _read(self, clip: int, buffer: BatchBuffer, slot: int, wait: Wait) -> None:
        wait()
        self._read_clip(clip, buffer, slot)


def prefetch_batches(
    read_clip: ReadClip,
    order: Iterable[Sequence[int]],
    runs: Sequence[BlockRun],
    names: Sequence[str],
    assemble: Assemble,
    *,
    threads: int,
    depth: int,
    device: torch.device,
    allocate: Allocate = new_memory,
) -> Iterator[TokenBatch]:
    """Batches of ``order`` one by one; each is valid until the next is asked for, on a GPU for as long as it is kept.

    ``depth`` buffers make up the ring, the one in use included; they are all the memory that this takes, whatever the
    size of the store; ``allocate`` gives it, unless a GPU wants it page-locked. ``order`` may be endless: no more of it
    is asked for than there are buffers. An error of ``read_clip`` is raised in place of the batch that it belongs to,
    after the batches before it.
    """
    waiting = iter(order)
    transfer = Transfer(device)
    memory = pinned_memory if transfer.pinned else allocate
    executor = ThreadPoolExecutor(threads, "mettle-read")
    ring = _Ring(read_clip, executor, depth, lambda size: BatchBuffer(runs, size, assemble, allocate=memory))
    try:
        while True:
            ring.start_reading(waiting)
            if not ring.filling:
                return
            ready = ring.filling.popleft()
            for read in ready.reads:
                read.result()
            batch, copied = transfer.deliver(ready.buffer, ready.clips, names)
            if copied is not None:
                # the batch is another memory: the next one is read while the device works on this one
                ring.free.append((ready.buffer, copied))
                ring.start_reading(waiting)
            yield batch
            if copied is None:
                ring.free.append((ready.buffer, no_wait))
    finally:
        # waits for the reads under way (a clip each): they write into buffers that are about to be freed
        executor.shutdown(wait=True, cancel_futures=True)
