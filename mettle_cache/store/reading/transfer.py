"""From a filled buffer to the consumer's device: nothing to do on a CPU, one asynchronous copy on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mettle_cache.store.reading.buffers import BatchBuffer
from mettle_cache.tokens import TokenBatch


class Transfer:
    """Hands batches over to ``device``.

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
