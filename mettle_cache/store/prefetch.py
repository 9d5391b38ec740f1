"""Batches ahead of the consumer: threads fill a ring of reused buffers, in order, while the last batch is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from mettle_cache.store.buffers import BatchBuffer, BlockRun
from mettle_cache.store.clipreader import ClipReader
from mettle_cache.tokens import TokenBatch


@dataclass(frozen=True)
class _Filling:
    """A batch on its way: one future a clip."""

    clips: Sequence[int]
    buffer: BatchBuffer
    reads: list[Future[None]]


def prefetch_batches(
    reader: ClipReader,
    order: Sequence[Sequence[int]],
    runs: Sequence[BlockRun],
    names: Sequence[str],
    *,
    threads: int,
    depth: int,
    device: torch.device,
) -> Iterator[TokenBatch]:
    """Batches of ``order`` one by one; each is valid until the next one is asked for.

    ``depth`` buffers make up the ring, the one in use included: memory is theirs, whatever the size of the store.
    """
    size = max((len(clips) for clips in order), default=0)
    waiting = deque(order)
    free = [BatchBuffer(runs, size, pin=device.type == "cuda") for _ in range(min(depth, len(order)))]
    filling: deque[_Filling] = deque()
    pool = ThreadPoolExecutor(threads, "read")
    try:
        while waiting or filling:
            while waiting and free:
                filling.append(_start(pool, reader, waiting.popleft(), free.pop()))
            ready = filling.popleft()
            for read in ready.reads:
                read.result()
            yield _deliver(ready, names, device)
            if device.type == "cuda":
                # the copy out of the pinned buffer was asynchronous
                torch.cuda.current_stream(device).synchronize()
            free.append(ready.buffer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(pool: ThreadPoolExecutor, reader: ClipReader, clips: Sequence[int], buffer: BatchBuffer) -> _Filling:
    reads = [pool.submit(reader.read_clip, clip, buffer, slot) for slot, clip in enumerate(clips)]
    return _Filling(clips, buffer, reads)


def _deliver(ready: _Filling, names: Sequence[str], device: torch.device) -> TokenBatch:
    batch = ready.buffer.batch(ready.clips, names)
    return batch if device.type == "cpu" else batch.to(device, non_blocking=True)
