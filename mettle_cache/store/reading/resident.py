"""Tokens that are read once and stay: chosen layers of chosen clips, in host memory or on a GPU.

Whoever reads a clip first leaves it here, so filling takes no pass of its own: the first epoch reads the disk, and
checks what it reads, the others do not. What is delivered is the same to the bit.

In host memory a clip is copied into the ring of the reader, by its threads. On a GPU a batch is gathered where the
tokens lie: blocks of a stage are stacked in one tensor, so a batch takes one launch a stage and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.store.reading.buffers import Assemble, BatchBuffer, BlockRun, map_memory
from mettle_cache.store.reading.device_copy import to_device
from mettle_cache.tokens import LayerTokens, TokenBatch

ReadClip = Callable[[int, BatchBuffer, int], None]
ReadBatches = Callable[[Iterable[Sequence[int]], ReadClip], Iterator[TokenBatch]]
# a gather moves whole elements: few wide ones are faster than many bytes
_WIDTHS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def resident_bytes(runs: Sequence[BlockRun], clips: int) -> int:
    """What the tokens of ``clips`` clips take here: what is stored of them, without checksums."""
    return clips * sum(len(run.blocks) * sum(run.array.field_bytes) for run in runs)


@runtime_checkable
class KeepsTokens(Protocol):
    """A source of tokens that can leave them where they stay; a :class:`TokenStore` is one, and documents them."""

    @property
    def path(self) -> Path: ...

    def keep(
        self, clips: Iterable[int], layers: Sequence[str] | None = None, device: torch.device | None = None
    ) -> ResidentTokens: ...

    def resident_bytes(self, clips: int, layers: Sequence[str] | None = None) -> int: ...


class ResidentTokens:
    """Room for the layers ``names`` of ``clips``, filled as they are read. Safe to use from several threads.

    ``device`` is where batches are gathered; None for host memory, from which a reader's threads copy clips.

    Raises
    ------
    OSError, torch.OutOfMemoryError
        There is no such room.
    """

    def __init__(
        self,
        runs: Sequence[BlockRun],
        names: Sequence[str],
        clips: Iterable[int],
        assemble: Assemble,
        device: torch.device | None = None,
    ) -> None:
        self.names = list(names)
        self.clips = tuple(dict.fromkeys(clips))
        self.device = device
        self._runs = tuple(runs)
        self._assemble = assemble
        self._place = {clip: place for place, clip in enumerate(self.clips)}
        self._here = np.zeros(len(self.clips), bool)
        # one a field of a run: [blocks, clips, bytes of the field] in wide elements
        self._stacks = [[self._room(run, nbytes) for nbytes in run.array.field_bytes] for run in self._runs]
        self._rows = list(self._host_rows()) if device is None else []

    @property
    def nbytes(self) -> int:
        """Bytes of the room, filled or not."""
        return resident_bytes(self._runs, len(self.clips))

    @property
    def filled_bytes(self) -> int:
        """Bytes that have been read into it."""
        return resident_bytes(self._runs, int(self._here.sum()))

    def batches(self, order: Iterable[Sequence[int]], read: ReadBatches, read_clip: ReadClip) -> Iterator[TokenBatch]:
        """Batches in a finite ``order``; ``read`` gives those that it is asked for, clip by clip with a function such
        as ``read_clip``, which reads a clip of the store."""
        if self.device is None:
            return read(order, self._reading(read_clip))
        return self._gathered([tuple(clips) for clips in order], lambda order: read(order, read_clip))

    def _reading(self, read_clip: ReadClip) -> ReadClip:
        """As ``read_clip``, which is asked for clips alone that are not here yet."""

        def read(clip: int, buffer: BatchBuffer, slot: int) -> None:
            place = self._place.get(clip)
            if place is not None and self._here[place]:
                for kept, field in zip(self._rows, buffer.fields, strict=True):
                    field[slot] = kept[place]
                return
            read_clip(clip, buffer, slot)
            if place is None:
                return
            # two threads that read the same clip write the same bytes
            for kept, field in zip(self._rows, buffer.fields, strict=True):
                kept[place] = field[slot]
            self._here[place] = True

        return read

    def _gathered(
        self, order: Sequence[tuple[int, ...]], read: Callable[[Sequence[Sequence[int]]], Iterator[TokenBatch]]
    ) -> Iterator[TokenBatch]:
        """Batches gathered on the device. What is not here yet is read; a batch with a clip that has no room whole."""
        coming = {clip for clip, place in self._place.items() if self._here[place]}
        lacking = []
        for clips in order:
            has_room = self._place.keys() >= set(clips)
            lacking.append(tuple(clip for clip in dict.fromkeys(clips) if clip not in coming) if has_room else clips)
            coming.update(clips if has_room else ())
        missing = read([clips for clips in lacking if clips])
        for clips, wanted in zip(order, lacking, strict=True):
            batch = next(missing) if wanted else None
            if batch is not None and self._place.keys() >= set(clips):
                self._keep(batch)
                batch = None
            yield self._gather(clips) if batch is None else batch

    def _room(self, run: BlockRun, nbytes: int) -> Tensor:
        dtype = next(dtype for dtype in _WIDTHS if nbytes % dtype.itemsize == 0)
        shape = (len(run.blocks), len(self.clips), nbytes // dtype.itemsize)
        if self.device is not None:
            return torch.empty(shape, dtype=dtype, device=self.device)
        return torch.from_numpy(_host_memory(shape[0] * shape[1] * nbytes)).view(dtype).view(shape)

    def _host_rows(self) -> Iterator[NDArray[np.uint8]]:
        """``[clips, bytes]`` of each field, in the order of :attr:`BatchBuffer.fields`."""
        for run, stacks in zip(self._runs, self._stacks, strict=True):
            for block in range(len(run.blocks)):
                yield from (stack[block].view(torch.uint8).numpy() for stack in stacks)

    def _places(self, clips: Sequence[int]) -> Tensor:
        assert self.device is not None
        return to_device(torch.tensor([self._place[clip] for clip in clips]), self.device)

    def _keep(self, batch: TokenBatch) -> None:
        places = self._places(batch.clips)
        for run, stacks in zip(self._runs, self._stacks, strict=True):
            for position, block in enumerate(run.blocks):
                tokens = batch.layers[run.array.layers[block].name]
                for field, stack in zip(run.array.fields, stacks, strict=True):
                    rows = _part(tokens, field.part).flatten(1).view(stack.dtype)
                    stack[position].index_copy_(0, places, rows)
        self._here[[self._place[clip] for clip in batch.clips]] = True

    def _gather(self, clips: Sequence[int]) -> TokenBatch:
        places = self._places(clips)
        arrays: dict[str, dict[str, Tensor]] = {}
        for run, stacks in zip(self._runs, self._stacks, strict=True):
            for field, stack in zip(run.array.fields, stacks, strict=True):
                typed = stack.index_select(1, places).view(getattr(torch, field.dtype))
                parts = typed.view(len(run.blocks), len(clips), *field.shape)
                for block, part in zip(run.blocks, parts, strict=True):
                    arrays.setdefault(run.array.layers[block].name, {})[field.part] = part
        return TokenBatch({name: self._assemble(name, arrays[name]) for name in self.names}, tuple(clips))


def _part(tokens: LayerTokens, name: str) -> Tensor:
    return tokens.parts.get(name, tokens.codes)


def _host_memory(nbytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(map_memory(max(nbytes, 1)), np.uint8, nbytes)
