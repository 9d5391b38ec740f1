"""Samples of a split in a chosen order, as batches of stored tokens.

A sample is an annotation row; several samples may share a clip, which is stored once, or be made of several clips.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import compile_kernels
from mettle_cache.paths import command_line
from mettle_cache.pipelines.companions.pooled_grids import PooledGrids, pooled_grids
from mettle_cache.pipelines.progress import Progress
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.reading.resident import KeepsTokens, ResidentTokens
from mettle_cache.tasks.protocol import StepInputs, Task
from mettle_cache.tokens import TokenBatch

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


@dataclass(frozen=True)
class Split:
    """The samples of a split by position in the store's sample table: usable ones, and those without tokens."""

    name: str
    rows: tuple[int, ...]
    dropped: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


def read_split(store: TokenSource, name: str) -> Split:
    """The samples of one split, in the order of the annotations."""
    splits, clips = store.samples["split"].to_pylist(), clips_of_samples(store.samples)
    usable = set(store.clips) - set(store.failed)
    rows = [row for row, split in enumerate(splits) if split == name]
    return Split(
        name,
        tuple(row for row in rows if usable.issuperset(clips[row])),
        tuple(row for row in rows if not usable.issuperset(clips[row])),
    )


def no_samples(store: TokenSource, split: Split) -> UsageError:
    """Why there is nothing to score: every clip of the split failed, or there is no such split."""
    see = f"see: {command_line('mettle info', str(store.path))}"
    if split.dropped:
        return UsageError(f"{store.path}: no sample of the {split.name} split has tokens: every clip failed", hint=see)
    known = [name for name in dict.fromkeys(store.samples["split"].to_pylist()) if read_split(store, name).rows]
    near = difflib.get_close_matches(split.name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"{store.path}: there is no split '{split.name}'", hint=f"{guess}it has {', '.join(known)}" if known else see
    )


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of ``count`` samples that depends on the seed and the epoch, and on nothing else."""
    order: list[int] = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count).tolist()
    return order


@dataclass(frozen=True)
class SampleBatch:
    """B samples by position, their tokens, and further inputs; the tokens of ``inputs.rows`` follow those of the B.

    ``static``: the tokens of all such batches are in the same memory.
    """

    rows: list[int]
    tokens: TokenBatch
    inputs: StepInputs
    static: bool = False


class SampleLoader:
    """Batches of one store's tokens for chosen samples; ``nbytes`` counts what it has delivered.

    ``layers`` are read whole. ``grids`` come with them, under the names of their pooled layers.
    """

    def __init__(
        self,
        store: TokenSource,
        layers: Sequence[LayerSpec],
        *,
        device: torch.device,
        threads: int = 3,
        grids: Sequence[PooledGrids] = (),
    ) -> None:
        self.store = store
        self.names = [layer.name for layer in layers]
        self.grids = tuple(grids)
        self.device = device
        self.threads = threads
        self.nbytes = 0
        self._residents: Sequence[ResidentTokens] = ()
        self._filled_before = 0
        index = {clip: position for position, clip in enumerate(store.clips)}
        self._clips_of_row = [[index[clip] for clip in clips] for clips in clips_of_samples(store.samples)]

    @classmethod
    def for_tasks(
        cls,
        store: TokenSource,
        tasks: Sequence[Task],
        *,
        device: torch.device,
        threads: int = 3,
        grids: Sequence[PooledGrids] = (),
    ) -> Self:
        """A loader of what any of the tasks reads: whole layers, but for those of which all that it reads is pooled."""
        there = {each for one in grids for each in one.table.pooled}
        names = set()
        for task in tasks:
            pooled = {each.layer.name for each in task.pooled}
            lacking = {each.layer.name for each in task.pooled if each not in there}
            names |= {layer.name for layer in task.layers} - (pooled - lacking)
        layers = [layer for layer in store.layers if layer.name in names]
        return cls(store, layers, device=device, threads=threads, grids=grids)

    @classmethod
    def with_grids(
        cls, store: TokenSource, tasks: Sequence[Task], progress: Progress, *, device: torch.device, threads: int = 3
    ) -> Self:
        """As :meth:`for_tasks`, with the pooled grids that the tasks read; those that lack are made first."""
        grids = pooled_grids(store, [each for task in tasks for each in task.pooled], progress)
        return cls.for_tasks(store, tasks, device=device, threads=threads, grids=grids)

    def sources(self) -> list[tuple[TokenSource, list[str]]]:
        """The stores that are read, and the layers of each: the store's own, then grids."""
        own: list[tuple[TokenSource, list[str]]] = [(self.store, self.names)] if self.names else []
        return [*own, *((one.store, [*one.names]) for one in self.grids)]

    @property
    def layers(self) -> int:
        """How many layers a batch has."""
        return sum(len(names) for _, names in self.sources())

    def clips_of(self, rows: Iterable[int]) -> list[int]:
        """The clips of samples, each once, on the clip axis."""
        return list(dict.fromkeys(clip for row in rows for clip in self._clips_of_row[row]))

    def keepers(self) -> list[tuple[KeepsTokens, list[str]]]:
        """The :meth:`sources` where all of them can keep what they have read, else none."""
        found: list[tuple[KeepsTokens, list[str]]] = []
        for store, names in self.sources():
            if isinstance(store, KeepsTokens):
                found.append((store, names))
        return found if len(found) == len(self.sources()) else []

    def resident_bytes(self, clips: int) -> int:
        """What the tokens of so many clips take as they are stored; 0 where nothing can be kept."""
        return sum(store.resident_bytes(clips, names) for store, names in self.keepers())

    def keep(self, residents: Sequence[ResidentTokens]) -> None:
        """Leave what is read in ``residents``, one for each of :meth:`sources`, and read no more what is there."""
        self._residents = residents
        self._filled_before = self._filled

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the disk, of :attr:`nbytes`."""
        return self._filled - self._filled_before if self._residents else self.nbytes

    @property
    def _filled(self) -> int:
        return sum(resident.filled_bytes for resident in self._residents)

    def batches(self, rows: Sequence[int], batch_size: int, inputs: Inputs | None = None) -> Iterator[SampleBatch]:
        """Samples and their tokens, ``batch_size`` at a time; the last batch may be smaller.

        A batch's memory is reused: it is valid until the next one is taken. ``inputs`` is called for every batch, with
        its number and rows, before anything is read.
        """
        groups = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
        extras = [inputs(number, group) if inputs else StepInputs() for number, group in enumerate(groups)]
        samples = [(*group, *extra.rows) for group, extra in zip(groups, extras, strict=True)]
        clips = [[clip for row in rows for clip in self._clips_of_row[row]] for rows in samples]
        for group, extra, batch in zip(groups, extras, self._read(clips), strict=True):
            self.nbytes += batch.nbytes
            yield SampleBatch(group, join_clips(batch, len(group) + len(extra.rows)), extra)

    def _read(self, clips: Sequence[Sequence[int]]) -> Iterator[TokenBatch]:
        """Whole layers and grids of the same clips as one batch."""

        def read(place: int, store: TokenSource, names: Sequence[str]) -> Iterator[TokenBatch]:
            options: dict[str, Any] = {"resident": self._residents[place]} if self._residents else {}
            return store.batches(clips, layers=names, threads=self.threads, device=str(self.device), **options)

        # what a batch calls the layers of each source
        called: list[Mapping[str, str]] = [*([{}] if self.names else []), *(one.names for one in self.grids)]
        parts = [read(place, *source) for place, source in enumerate(self.sources())]
        sources = list(zip(parts, called, strict=True))
        for batches in zip(*(tokens for tokens, _ in sources), strict=True):
            layers = {
                names.get(name, name): tokens
                for batch, (_, names) in zip(batches, sources, strict=True)
                for name, tokens in batch.layers.items()
            }
            yield TokenBatch(layers, batches[0].clips)

    def compile_kernels(self, rows: Sequence[int], note: Callable[[str], None]) -> None:
        """Compile the kernels for the tokens of these samples now, so that compiling is not counted in a rate.

        ``note`` is called before something is compiled, which happens once on a machine.
        """
        clips = [clip for row in rows[:1] for clip in self._clips_of_row[row][:1]]
        if clips and self.names:
            compile_kernels(self.store.read(clips, self.names).to(self.device).layers.values(), note)


Inputs = Callable[[int, Sequence[int]], StepInputs]


def training_inputs(task: Task, split_rows: Sequence[int], *, order_seed: int, epoch: int) -> Inputs:
    """The task's inputs of each batch in training; its draws follow from ``order_seed``, epoch and batch number."""

    def inputs(number: int, rows: Sequence[int]) -> StepInputs:
        rng = np.random.Generator(np.random.PCG64([order_seed, epoch, number]))
        return task.inputs(rows, split_rows=split_rows, rng=rng)

    return inputs


def evaluation_inputs(task: Task, split_rows: Sequence[int]) -> Inputs:
    """The task's inputs of each batch in evaluation, where nothing is drawn."""
    return lambda _number, rows: task.inputs(rows, split_rows=split_rows, rng=None)


def common_inputs(inputs_of_runs: Sequence[Inputs]) -> Inputs:
    """The inputs of each batch, which must be the same for the tasks of all runs.

    Raises
    ------
    UsageError
        From the function that is returned: two tasks give different samples or tensors.
    """

    def inputs(number: int, rows: Sequence[int]) -> StepInputs:
        first, *others = (inputs_of(number, rows) for inputs_of in inputs_of_runs)
        if not all(_same_inputs(first, other) for other in others):
            raise UsageError(
                "these heads cannot share a pass: their head options make the task give them different inputs",
                hint="give them to commands of their own",
            )
        return first

    return inputs


def _same_inputs(ours: StepInputs, other: StepInputs) -> bool:
    return (
        ours.rows == other.rows
        and ours.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in ours.tensors.items())
    )


def join_clips(batch: TokenBatch, samples: int) -> TokenBatch:
    """Tokens of ``samples * F`` clips ``[B * F, T, N, D]`` as those of samples of F clips each, ``[B, F * T, N, D]``.

    Raises
    ------
    UsageError
        The samples have different numbers of clips.
    """
    if len(batch.clips) == samples:
        return batch
    if len(batch.clips) % samples:
        raise UsageError(
            f"{samples} samples of one batch have {len(batch.clips)} clips together: not the same number each"
        )

    def join_axes(part: Tensor) -> Tensor:
        return torch.flatten(part.unflatten(0, (samples, -1)), 1, 2)

    return TokenBatch({name: layer.map(join_axes) for name, layer in batch.layers.items()}, batch.clips)
