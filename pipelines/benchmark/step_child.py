"""One way to train, measured in a process of its own: seconds a step, memory, what is saved for the backward pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mettle_cache.backbones import Backbone
from mettle_cache.devices import prepare_process
from mettle_cache.methods.kernels.cpu import amx
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, call_in_child, counting_saved, serve
from mettle_cache.pipelines.benchmark.fullsize import SEGMENTS
from mettle_cache.pipelines.benchmark.heads import (
    bench_backbones,
    bench_recipe,
    layer_run,
    load_libraries,
    store_run,
    training_batches,
)
from mettle_cache.pipelines.benchmark.stock_attention import use_stock_attention
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tasks.protocol import StepInputs
from mettle_cache.tokens import FLOATS, LayerTokens, TokenBatch

MODULE = "mettle_cache.pipelines.benchmark.step_child"


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """What to train on: a store, or (None) backbones that run in every step.

    ``attention`` is ``absorbed`` or ``stock``; without ``byte_tiles`` a processor that has some does as others do.
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
    that a forward pass keeps for its backward pass, ``tokens`` those of its batch's tokens.
    """

    seconds: float
    backbone: float
    optimiser: float
    peak: int
    saved: int
    tokens: int
    memory_of: str


def measure_steps(request: StepRequest) -> StepResult:
    """Do what ``request`` says in a new process. Raises RunError where it dies."""
    return StepResult(**call_in_child(MODULE, asdict(request)))


def _work(request: dict[str, Any]) -> dict[str, object]:
    prepare_process()
    wanted = StepRequest(**request)
    if not wanted.byte_tiles:
        os.environ[amx.SWITCH] = "0"
    device = torch.device(wanted.device)
    load_libraries(device, wanted.attention)
    meter = MemoryMeter(device)
    recipe = bench_recipe(tiny=wanted.tiny)
    if wanted.store is None:
        source = _OnlineSource(wanted, device)
        run = layer_run(source.layers, recipe, clips=wanted.batch, device=device)
        result = _time_steps(run, source.batches(), wanted, source)
    else:
        with TokenStore.open(Path(wanted.store)) as store:
            run = store_run(store, recipe, device=device)
            steps = wanted.untimed + wanted.steps
            batches = training_batches(store, run.task.layers, wanted.batch, steps, device)
            result = _time_steps(run, batches, wanted, None)
    return {**result, "peak": meter.peak, "memory_of": meter.kind}


def _time_steps(
    run: Run, batches: Iterator[SampleBatch], wanted: StepRequest, online: _OnlineSource | None
) -> dict[str, object]:
    """Steps as ``wanted``; of the online source what its steps take, and not what they leave out."""
    if wanted.attention == "stock":
        use_stock_attention(run.model)
    first = next(batches)
    given = [*run.model.parameters(), *run.model.buffers(), *token_tensors(first.tokens)]
    with counting_saved(given) as saved:
        run.step(first, epoch=0, index=0)
    tokens = first.tokens.nbytes
    del given, first
    for index, batch in enumerate(islice(batches, wanted.untimed - 1)):
        run.step(batch, epoch=0, index=index + 1)
    if online is not None:
        online.seconds = online.copying = 0.0
    started = now(run.device)
    for index, batch in enumerate(batches):
        run.step(batch, epoch=1, index=index)
    seconds = now(run.device) - started - (online.copying if online else 0.0)
    backbone = online.seconds if online else 0.0
    return {
        "seconds": seconds / wanted.steps,
        "backbone": backbone / wanted.steps,
        "optimiser": time_update(run),
        "saved": saved.nbytes,
        "tokens": tokens,
    }


class _OnlineSource:
    """Batches as a trainer without a cache makes them: frozen backbones in every step, on inputs that are ready.

    ``seconds`` are those of the forward passes. ``copying`` is what it takes to get their tokens out of inference mode,
    which such a trainer would not use: they are not counted.
    """

    def __init__(self, wanted: StepRequest, device: torch.device) -> None:
        self._wanted = wanted
        self._device = device
        self._backbones = bench_backbones(tiny=wanted.tiny, device=device)
        self.layers = tuple(layer for backbone in self._backbones for layer in backbone.layers)
        self.seconds = self.copying = 0.0

    def batches(self) -> Iterator[SampleBatch]:
        clips = self._wanted.batch
        rows = list(range(clips))
        for _ in range(self._wanted.untimed + self._wanted.steps):
            layers: dict[str, LayerTokens] = {}
            for backbone in self._backbones:
                layers |= self._tokens(backbone, clips)
            yield SampleBatch(rows, TokenBatch(layers, tuple(rows)), StepInputs())

    def _tokens(self, backbone: Backbone, clips: int) -> dict[str, LayerTokens]:
        inputs = torch.randn(clips * SEGMENTS, *backbone.segment_shape, device=self._device)
        started = now(self._device)
        found = backbone.forward_tokens(inputs)
        computed = now(self._device)
        layers = {}
        for name in list(found):
            layers[name] = LayerTokens(found.pop(name).clone().unflatten(0, (clips, SEGMENTS)), FLOATS)
        self.seconds += computed - started
        self.copying += now(self._device) - computed
        return layers


def token_tensors(batch: TokenBatch) -> list[torch.Tensor]:
    """All tensors that a batch's tokens are made of."""
    return [tensor for layer in batch.layers.values() for tensor in (layer.codes, *layer.parts.values())]


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


def now(device: torch.device) -> float:
    """The time when everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    serve(_work)
