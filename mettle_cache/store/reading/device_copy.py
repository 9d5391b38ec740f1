"""Copies between host memory and a GPU that nobody waits for: the one file that knows CUDA's streams and events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from mettle_cache.store.reading.buffers import BatchBuffer
from mettle_cache.tokens import TokenBatch

# where a tensor may begin in a packed copy: values of any type lie at multiples of their size
_ALIGNMENT = 16

Wait = Callable[[], None]
"""Returns when a buffer may be filled again."""


def no_wait() -> None:
    """It may be filled now."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``; the host does not wait for the copy.

    From ordinary memory CUDA would wait. The allocator of page-locked memory reuses it after the copy only.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Numbers of a device on their way to the host. Reading them waits for this copy, and not for what came after."""

    def __init__(self, tensor: Tensor) -> None:
        detached = tensor.detach()
        if tensor.device.type != "cuda":
            self._host = detached.clone()
            self._copied: torch.cuda.Event | None = None
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(detached, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> list[float]:
        """The numbers ``[K]``."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers


class HostTensors:
    """Tensors of one device on their way to host memory, in one packed copy whose memory they share there.

    On CUDA the copy goes by a stream of its own into page-locked memory, so that neither the device's next work nor
    whoever queues it waits for it.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        packed = pack(tensors)
        self._like = tuple(tensors)
        self._copied: torch.cuda.Event | None = None
        if packed.device.type != "cuda":
            self._host = packed.to("cpu")
            return
        stream = _copies(packed.device)
        stream.wait_stream(torch.cuda.current_stream(packed.device))
        self._host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
        with torch.cuda.stream(stream):
            self._host.copy_(packed, non_blocking=True)
            # whoever waits leaves its core to the decoders
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(stream)
        # the allocator must not give this memory away while it is read
        packed.record_stream(stream)

    def wait(self) -> list[Tensor]:
        """The tensors, when they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return unpack(self._host, self._like)


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors of one device, one after the other, as one uint8 tensor there."""
    if not tensors:
        return torch.empty(0, dtype=torch.uint8)
    padding = torch.zeros(_ALIGNMENT, dtype=torch.uint8, device=tensors[0].device)
    pieces = [
        piece
        for tensor in tensors
        for piece in (tensor.flatten().view(torch.uint8), padding[: -tensor.nbytes % _ALIGNMENT])
    ]
    return torch.cat(pieces)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of :func:`pack`, as views of ``packed``; ``like`` have the types and shapes of what was packed."""
    ends = accumulate((-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in like), initial=0)
    return [
        packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for start, tensor in zip(ends, like, strict=False)
    ]


class Transfer:
    """Hands filled buffers over to ``device``: nothing to do on a CPU, one asynchronous copy on a GPU.

    On CUDA the copy runs on a stream of its own, beside the kernels of the step before. The step's stream waits for it,
    so does a reader that wants to fill the buffer again, and nobody else does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.pinned else None

    def deliver(
        self, buffer: BatchBuffer, clips: Sequence[int], names: Sequence[str]
    ) -> tuple[TokenBatch, Wait | None]:
        """The batch in ``buffer`` on the device, and what to wait for before the buffer is filled again.

        None where the batch is the buffer's own memory, as on a CPU: then it is the next batch that is waited for.
        """
        if self.device.type == "cpu":
            return buffer.batch(clips, names), None
        if self._stream is None:
            return buffer.batch_in(buffer.memory.to(self.device), clips, names), no_wait
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            memory = buffer.memory.to(self.device, non_blocking=True)
            copied = self._stream.record_event()
        current.wait_event(copied)
        # the allocator must not give this memory away while kernels of the consumer's stream still read it
        memory.record_stream(current)
        return buffer.batch_in(memory, clips, names), copied.synchronize
