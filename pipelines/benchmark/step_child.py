"""Measuring training in a new process: seconds a step, memory, and what is saved for the backward pass.

It trains one head, or several that share a pass over a store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from mettle_cache.devices import prepare_process
from mettle_cache.methods.kernels import klt
from mettle_cache.methods.kernels.cpu import amx, klt_pooling, pooling
from mettle_cache.methods.kernels.ops import choose_implementation
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, call_in_child, serve
from mettle_cache.pipelines.benchmark.heads import (
    bench_backbones,
    bench_recipe,
    layer_run,
    load_libraries,
    store_run,
    training_batches,
)
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS
from mettle_cache.pipelines.benchmark.online import OnlineSource, now
from mettle_cache.pipelines.benchmark.stock_attention import use_stock_attention
from mettle_cache.pipelines.memory import available_memory, counting_saved
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import LayerTokens, TokenBatch

MODULE = "mettle_cache.pipelines.benchmark.step_child"
# weights and two Adam moments stay; the gradients are there once, whatever the number of heads
_BYTES_A_PARAMETER = 3 * 4
_SPARE = 0.25
PYTORCH = "PyTorch"


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """What to train on: a store, or (None) backbones that run in every step.

    ``attention`` is ``absorbed`` or ``stock``; without ``byte_tiles`` the processor's tiles of bytes are not used.
    ``steps`` are timed after ``untimed`` ones; what is saved is counted in the first of those.
    """

    store: str | None
    attention: str
    batch: int
    steps: int
    device: str
    tiny: bool
    untimed: int = 1
    byte_tiles: bool = True


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step took.

    ``seconds`` include waiting for the batch; ``backbone`` is the part of them that made tokens, and ``optimiser`` the
    part that updates weights. ``peak`` is memory above the start, in what ``memory_of`` says; ``saved`` are the bytes
    that a forward pass keeps for its backward pass, ``tokens`` those of its batch's tokens. ``kernels`` says what
    multiplied.
    """

    seconds: float
    backbone: float
    optimiser: float
    peak: int
    saved: int
    tokens: int
    memory_of: str
    kernels: str = ""


def measure_steps(request: StepRequest) -> StepResult:
    """Do what ``request`` says in a new process. Raises RunError where it dies."""
    return StepResult(**call_in_child(MODULE, asdict(request)))


def _time_one_way(request: StepRequest) -> dict[str, object]:
    if not request.byte_tiles:
        os.environ[amx.SWITCH] = "0"
    device = torch.device(request.device)
    load_libraries(device, request.attention)
    meter = MemoryMeter(device)
    recipe = bench_recipe(tiny=request.tiny)
    if request.store is None:
        backbones = bench_backbones(tiny=request.tiny, device=device)
        source = OnlineSource(backbones, segments=SEGMENTS, device=device)
        run = layer_run(source.layers, recipe, clips=request.batch, device=device)
        result = time_steps(run, source.batches(request.batch, request.untimed + request.steps), request, source)
    else:
        with TokenStore.open(Path(request.store)) as store:
            run = store_run(store, recipe, device=device)
            steps = request.untimed + request.steps
            batches = training_batches(store, run.task.layers, request.batch, steps, device)
            result = time_steps(run, batches, request, None)
    return {**result, "peak": meter.peak, "memory_of": meter.kind}


class Timing(Protocol):
    """What of a request :func:`time_steps` reads: see :class:`StepRequest`."""

    @property
    def attention(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def untimed(self) -> int: ...


class Computed(Protocol):
    """A source of batches that computes their tokens; the seconds that it took, and those that are not a trainer's."""

    seconds: float
    copying: float


def time_steps(run: Run, batches: Iterator[SampleBatch], request: Timing, online: Computed | None) -> dict[str, object]:
    """Time steps as ``request`` says; for the online source without the time that it says is not a trainer's.

    Gives the fields of :class:`StepResult` but the two of memory.
    """
    if request.attention == "stock":
        use_stock_attention(run.model)
    first = next(batches)
    known = [*run.model.parameters(), *run.model.buffers(), *token_tensors(first.tokens)]
    with counting_saved(known) as saved:
        run.step(first, epoch=0, index=0)
    tokens = first.tokens.nbytes
    kernels = PYTORCH if request.attention == "stock" else kernels_of(next(iter(first.tokens.layers.values())))
    del known, first
    for index, batch in enumerate(islice(batches, request.untimed - 1)):
        run.step(batch, epoch=0, index=index + 1)
    if online is not None:
        online.seconds = online.copying = 0.0
    started = now(run.device)
    for index, batch in enumerate(batches):
        run.step(batch, epoch=1, index=index)
    seconds = now(run.device) - started - (online.copying if online else 0.0)
    backbone = online.seconds if online else 0.0
    return {
        "seconds": seconds / request.steps,
        "backbone": backbone / request.steps,
        "optimiser": time_update(run),
        "saved": saved.nbytes,
        "tokens": tokens,
        "kernels": kernels,
    }


def kernels_of(tokens: LayerTokens) -> str:
    """What multiplies tokens ``[B, T, N, D]`` such as these in single precision in this process, for people."""
    frame = tokens.flatten_frames()[:1]
    way = choose_implementation(frame, torch.zeros(1, frame.width, device=frame.codes.device))
    chosen = klt.choose_row_pooling(klt.make_rows(frame, torch.float32, normed=True)) if way is klt else way
    if chosen not in (pooling, klt_pooling):
        return PYTORCH
    return "compiled, tiles of bytes" if amx.has_byte_tiles() else "compiled, products in float32"


def token_tensors(batch: TokenBatch) -> list[torch.Tensor]:
    """All tensors that a batch's tokens are made of, and the store's static arrays that belong to them."""
    return [
        tensor
        for layer in batch.layers.values()
        for tensor in (layer.codes, *layer.parts.values(), *layer.static.values())
    ]


def time_update(run: Run) -> float:
    """Seconds of one update of the weights by the optimiser, with gradients of zero; the better of two."""
    seconds = []
    for parameter in run.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        seconds.append(timed(run.optimizer.step, run.device))
    run.optimizer.zero_grad(set_to_none=True)
    return min(seconds)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, a GPU's kernels included."""
    started = now(device)
    work()
    return now(device) - started


@dataclass(frozen=True, kw_only=True)
class HeadsRequest:
    """``counts`` are the numbers of heads to time, in turns, ``repeats`` times each, after ``untimed`` steps of all."""

    store: str
    batch: int
    counts: tuple[int, ...]
    repeats: int
    device: str
    tiny: bool
    untimed: int = 1


def measure_heads(request: HeadsRequest) -> dict[int, list[float]]:
    """Seconds of a batch by the number of heads that take it; counts that memory cannot hold are missing.

    Raises RunError where the process dies.
    """
    answer = call_in_child(MODULE, asdict(request))
    return {int(count): seconds for count, seconds in answer["seconds"].items()}


def _time_heads(request: HeadsRequest) -> dict[str, object]:
    device = torch.device(request.device)
    recipe = bench_recipe(tiny=request.tiny)
    with TokenStore.open(Path(request.store)) as store:
        runs = [store_run(store, recipe, seed=0, device=device)]
        counts = _fitting(request.counts, _BYTES_A_PARAMETER * runs[0].parameters, available_memory(device))
        runs += [store_run(store, recipe, seed=seed, device=device) for seed in range(1, max(counts))]
        steps = request.untimed + request.repeats * len(counts)
        batches = training_batches(store, runs[0].task.layers, request.batch, steps, device)
        for index, batch in enumerate(islice(batches, request.untimed)):
            for run in runs:
                run.step(batch, epoch=0, index=index)
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for index in range(request.repeats):
            for count in counts:
                started = now(device)
                batch = next(batches)
                for run in runs[:count]:
                    run.step(batch, epoch=1, index=index)
                seconds[count].append(now(device) - started)
    return {"seconds": seconds}


def _fitting(counts: Sequence[int], nbytes: int, available: int) -> list[int]:
    """The numbers of heads of ``nbytes`` each that leave some memory for their batches; one head at least."""
    return [count for count in counts if count == 1 or count * nbytes <= (1 - _SPARE) * available]


def work(request: dict[str, Any]) -> dict[str, object]:
    """Measure as a request's document says, in this process: a result's fields, or the seconds of several heads."""
    prepare_process()
    return _time_heads(HeadsRequest(**request)) if "counts" in request else _time_one_way(StepRequest(**request))


if __name__ == "__main__":
    serve(work)
