"""Measuring one way to train a head in a new process: a step, its memory, and inference on one sample.

Shapes: B samples, T frames of a sample, N tokens, D channels.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mettle_cache.devices import prepare_process
from mettle_cache.pipelines.benchmark.baselines.lavish import AdaptedBackbones
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, call_in_child, serve
from mettle_cache.pipelines.benchmark.costs.setting import CostSetting, find_setting
from mettle_cache.pipelines.benchmark.heads import load_libraries, store_run
from mettle_cache.pipelines.benchmark.online import OnlineSource, now
from mettle_cache.pipelines.benchmark.step_child import time_steps, timed
from mettle_cache.pipelines.evaluate.export import fold_model
from mettle_cache.pipelines.memory import counting_saved
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import (
    SampleBatch,
    SampleLoader,
    evaluation_inputs,
    read_split,
    training_inputs,
)
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tasks.protocol import StepInputs
from mettle_cache.tokens import FLOATS, LayerTokens, TokenBatch

MODULE = "mettle_cache.pipelines.benchmark.costs.child"
STORE, BACKBONES, ADAPTERS = "store", "backbones", "adapters"


@dataclass(frozen=True, kw_only=True)
class CostRequest:
    """What to measure.

    ``source`` is a ``store`` (at ``store``), ``backbones`` that run in every step without a graph, or ``adapters`` in
    their blocks. ``method`` is another one than the recipe's, or None. ``steps`` are timed after ``untimed`` ones, none
    at all where ``steps`` is 0; ``inferences`` are timed after one, each of one sample.
    """

    setting: str
    method: str | None
    source: str
    store: str | None = None
    batch: int
    steps: int
    untimed: int
    inferences: int
    device: str
    tiny: bool
    attention: str = "absorbed"


@dataclass(frozen=True, kw_only=True)
class CostResult:
    """Seconds and bytes, None where nothing of the kind was measured.

    A step of B samples takes ``seconds``, of which ``backbone`` made its tokens. ``peak`` is the most memory above the
    start while training, in what ``memory_of`` says; ``saved`` is what a forward pass keeps for its backward pass.
    Inference on one sample: ``whole`` from the backbones' inputs, ``head`` from tokens, ``folded`` by the folded head
    from tokens.
    """

    seconds: float | None = None
    backbone: float | None = None
    peak: int | None = None
    saved: int | None = None
    memory_of: str = ""
    whole: float | None = None
    head: float | None = None
    folded: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """Adapters' forward and backward pass on ``frames`` frames, for its memory alone."""

    setting: str
    frames: int
    device: str
    tiny: bool


def measure_cost(request: CostRequest) -> CostResult:
    """Do what ``request`` says in a new process. Raises RunError where it dies."""
    return CostResult(**call_in_child(MODULE, asdict(request)))


def probe_memory(request: ProbeRequest) -> int:
    """Peak bytes of what ``request`` says, in a new process. Raises RunError where it dies."""
    return int(call_in_child(MODULE, asdict(request))["peak"])


class AdaptedSource:
    """Random inputs through backbones with adapters; every batch's tokens carry the graph of all their blocks.

    ``seconds`` are those of the forward passes; ``saved`` is what the first of them keeps for its backward pass.
    """

    copying = 0.0

    def __init__(self, setting: CostSetting, device: torch.device) -> None:
        self._backbones = setting.backbones(device)
        self.adapters = AdaptedBackbones(*self._backbones).to(device)
        self._frames = setting.frames
        self._device = device
        last = {layer.name for backbone in self._backbones for layer in backbone.layers[-1:]}
        self.layers = tuple(layer for backbone in self._backbones for layer in backbone.layers if layer.name in last)
        self.seconds = 0.0
        self.saved: int | None = None

    def batches(self, samples: int, count: int) -> Iterator[SampleBatch]:
        """``count`` batches of the same ``samples`` samples, with new random inputs each."""
        self.adapters.train()
        rows = list(range(samples))
        for _ in range(count):
            yield SampleBatch(rows, TokenBatch(self.tokens(samples), tuple(rows)), StepInputs())

    def tokens(self, samples: int) -> dict[str, LayerTokens]:
        """The last blocks' tokens ``[B, T, N, D]``, by layer name."""
        inputs = self.inputs(samples * self._frames)
        started = now(self._device)
        if self.saved is None and torch.is_grad_enabled():
            frozen: list[Tensor] = []
            for backbone in self._backbones:
                frozen += weights_of(backbone)
            with counting_saved([*frozen, *self.adapters.parameters(), *self.adapters.buffers()]) as saved:
                tokens = self.adapters(*inputs)
            self.saved = saved.nbytes
        else:
            tokens = self.adapters(*inputs)
        self.seconds += now(self._device) - started
        return {
            layer.name: LayerTokens(tokens[layer.name].unflatten(0, (samples, self._frames)), FLOATS)
            for layer in self.layers
        }

    def inputs(self, frames: int) -> list[Tensor]:
        """Random inputs of both backbones."""
        return [torch.randn(frames, *backbone.segment_shape, device=self._device) for backbone in self._backbones]


def weights_of(backbone: Any) -> list[Tensor]:
    """The weights and constants of a backbone's network."""
    return [*backbone.trunk.parameters(), *backbone.trunk.buffers()]


def _from_store(request: CostRequest, setting: CostSetting, meter: MemoryMeter) -> CostResult:
    device = torch.device(request.device)
    recipe = setting.recipe(request.method)
    with TokenStore.open(Path(request.store or "")) as store:
        run = store_run(store, recipe, device=device)
        rows = read_split(store, "train").rows
        loader = SampleLoader(store, run.task.layers, device=device)
        training: dict[str, Any] = {}
        if request.steps:
            count = request.batch * (request.untimed + request.steps)
            chosen = [rows[number % len(rows)] for number in range(count)]
            inputs = training_inputs(run.task, rows, order_seed=0, epoch=0)
            training = _train(run, loader.batches(chosen, request.batch, inputs), request, meter, None)
        batch = next(loader.batches(rows[:1], 1, evaluation_inputs(run.task, rows[:1])))
        return CostResult(**training, **_infer_head(run, batch, request))


def _from_backbones(request: CostRequest, setting: CostSetting, meter: MemoryMeter) -> CostResult:
    device = torch.device(request.device)
    recipe = setting.recipe(request.method)
    backbones = setting.backbones(device)
    offered = setting.layers(recipe)
    names = {layer.name for layer in recipe.method_choice().layers(offered)}
    source = OnlineSource(backbones, segments=setting.frames, names=names, device=device)
    run = setting.head(recipe, offered, samples=request.batch, device=device)
    training: dict[str, Any] = {}
    if request.steps:
        batches = source.batches(request.batch, request.untimed + request.steps)
        training = _train(run, batches, request, meter, source)
    batch = next(source.batches(1, 1))

    def whole() -> object:
        tokens: dict[str, LayerTokens] = {}
        for backbone, x in zip(backbones, inputs, strict=True):
            blocks = backbone.forward_tokens(x)
            tokens |= {name: LayerTokens(blocks[name][None], FLOATS) for name in names if name in blocks}
        return run.model(tokens)

    inputs = [torch.randn(setting.frames, *backbone.segment_shape, device=device) for backbone in backbones]
    head = _infer_head(run, batch, request)
    return CostResult(**training, **head, whole=_infer(run.model, whole, request))


def _from_adapters(request: CostRequest, setting: CostSetting, meter: MemoryMeter) -> CostResult:
    device = torch.device(request.device)
    source = AdaptedSource(setting, device)
    run = setting.head(setting.adapted_recipe(), source.layers, samples=request.batch, device=device)
    run.optimizer.add_param_group({"params": list(source.adapters.parameters())})
    training: dict[str, Any] = {}
    if request.steps:
        batches = source.batches(request.batch, request.untimed + request.steps)
        training = _train(run, batches, request, meter, source)
        training["saved"] += source.saved or 0
    source.adapters.eval()
    return CostResult(**training, whole=_infer(run.model, lambda: run.model(source.tokens(1)), request))


def _train(
    run: Run,
    batches: Iterator[SampleBatch],
    request: CostRequest,
    meter: MemoryMeter,
    online: OnlineSource | AdaptedSource | None,
) -> dict[str, Any]:
    result: Mapping[str, Any] = time_steps(run, batches, request, online)
    kept = {name: result[name] for name in ("seconds", "backbone", "saved")}
    return {**kept, "peak": meter.peak, "memory_of": meter.kind}


def _infer_head(run: Run, batch: SampleBatch, request: CostRequest) -> dict[str, Any]:
    """Seconds of the head alone on one sample's tokens, and of the folded head, which takes the head's place."""
    inputs = {name: tensor.to(run.device) for name, tensor in batch.inputs.tensors.items()}
    model = run.model
    head = _infer(model, lambda: model(batch.tokens.layers, **inputs), request)
    before = sum(parameter.numel() for parameter in model.parameters())
    if request.source != STORE:
        return {"head": head}
    fold_model(model)
    if sum(parameter.numel() for parameter in model.parameters()) == before:
        return {"head": head}
    return {"head": head, "folded": _infer(model, lambda: model(batch.tokens.layers, **inputs), request)}


def _infer(model: nn.Module, work: Callable[[], object], request: CostRequest) -> float:
    """Median seconds of ``work`` without a graph, after one run that is not counted."""
    model.eval()
    with torch.inference_mode():
        work()
        return statistics.median(timed(work, torch.device(request.device)) for _ in range(request.inferences))


def _probe(request: ProbeRequest) -> int:
    device = torch.device(request.device)
    setting = find_setting(request.setting, tiny=request.tiny)
    meter = MemoryMeter(device)
    source = AdaptedSource(setting, device)
    source.adapters.train()
    tokens = source.adapters(*source.inputs(request.frames))
    losses = [tokens[layer.name].mean() for layer in source.layers]
    del tokens
    torch.stack(losses).sum().backward()
    return meter.peak


_WAYS = {STORE: _from_store, BACKBONES: _from_backbones, ADAPTERS: _from_adapters}


def work(document: dict[str, Any]) -> dict[str, object]:
    """Measure as a request's document says, in this process: a result's fields, or the peak of a probe."""
    prepare_process()
    if "frames" in document:
        return {"peak": _probe(ProbeRequest(**document))}
    request = CostRequest(**document)
    device = torch.device(request.device)
    load_libraries(device, request.attention)
    setting = find_setting(request.setting, tiny=request.tiny)
    return asdict(_WAYS[request.source](request, setting, MemoryMeter(device)))


if __name__ == "__main__":
    serve(work)
