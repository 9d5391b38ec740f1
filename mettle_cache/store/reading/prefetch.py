"""Reading batches ahead: threads fill a ring of reused buffers, in order, while the consumer uses the last batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from mettle_cache.store.reading.buffers import Allocate, Assemble, BatchBuffer, BlockRun, new_memory, pinned_memory
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
    """Batches of ``order`` one by one; each is valid until the next one is asked for.

    ``depth`` buffers make up the ring, the one in use included; they are all the memory that this takes, whatever the
    size of the store; ``allocate`` gives it, unless a GPU wants it page-locked. ``order`` may be endless: no more of it
    is asked for than there are buffers. An error of ``read_clip`` is raised in place of the batch that it belongs to,
    after the batches before it.
    """
    waiting = iter(order)
    transfer = Transfer(device)
    free: list[BatchBuffer | None] = [None] * depth
    filling: deque[_Filling] = deque()
    executor = ThreadPoolExecutor(threads, "mettle-read")

    def start(clips: Sequence[int]) -> None:
        buffer = free.pop()
        if buffer is None or buffer.size < len(clips):
            buffer = BatchBuffer(runs, len(clips), assemble, allocate=pinned_memory if transfer.pinned else allocate)
        filling.append(
            _Filling(clips, buffer, [executor.submit(read_clip, clip, buffer, i) for i, clip in enumerate(clips)])
        )

    try:
        while True:
            while free and (clips := next(waiting, None)) is not None:
                start(tuple(clips))
            if not filling:
                return
            ready = filling.popleft()
            for read in ready.reads:
                read.result()
            yield transfer.deliver(ready.buffer, ready.clips, names)
            transfer.wait()
            free.append(ready.buffer)
    finally:
        # waits for the reads under way (a clip each): they write into buffers that are about to be freed
        executor.shutdown(wait=True, cancel_futures=True)


class Transfer:
    """Hands filled buffers over to ``device``: nothing to do on a CPU, one asynchronous copy on a GPU.

    On CUDA the copy runs on a stream of its own, beside the kernels of the step before; the current stream waits for
    it, the host does not until :meth:`wait`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.pinned else None
        self._copied: torch.cuda.Event | None = None

    def deliver(self, buffer: BatchBuffer, clips: Sequence[int], names: Sequence[str]) -> TokenBatch:
        """The batch in ``buffer``, on the device; on a CPU it is the buffer's own memory."""
        if self.device.type == "cpu":
            return buffer.batch(clips, names)
        if self._stream is None:
            return buffer.batch_in(buffer.memory.to(self.device), clips, names)
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            memory = buffer.memory.to(self.device, non_blocking=True)
            self._copied = self._stream.record_event()
        current.wait_event(self._copied)
        # the allocator must not give this memory away while kernels of the consumer's stream still read it
        memory.record_stream(current)
        return buffer.batch_in(memory, clips, names)

    def wait(self) -> None:
        """Return when the buffer that was delivered last may be filled again."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
