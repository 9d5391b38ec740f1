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
    # a buffer, and what a reader waits for before it fills it again
    free: deque[tuple[BatchBuffer | None, Wait]] = deque([(None, no_wait)] * depth)
    filling: deque[_Filling] = deque()
    executor = ThreadPoolExecutor(threads, "mettle-read")

    def read(clip: int, buffer: BatchBuffer, slot: int, wait: Wait) -> None:
        wait()
        read_clip(clip, buffer, slot)

    def start_reading() -> None:
        while free and (clips := next(waiting, None)) is not None:
            buffer, wait = free.popleft()
            if buffer is None or buffer.size < len(clips):
                memory = pinned_memory if transfer.pinned else allocate
                buffer, wait = BatchBuffer(runs, len(clips), assemble, allocate=memory), no_wait
            reads = [executor.submit(read, clip, buffer, slot, wait) for slot, clip in enumerate(clips)]
            filling.append(_Filling(tuple(clips), buffer, reads))

    try:
        while True:
            start_reading()
            if not filling:
                return
            ready = filling.popleft()
            for one in ready.reads:
                one.result()
            batch, copied = transfer.deliver(ready.buffer, ready.clips, names)
            if copied is not None:
                # the batch is another memory: the next one is read while the device works on this one
                free.append((ready.buffer, copied))
                start_reading()
            yield batch
            if copied is None:
                free.append((ready.buffer, no_wait))
    finally:
        # waits for the reads under way (a clip each): they write into buffers that are about to be freed
        executor.shutdown(wait=True, cancel_futures=True)
