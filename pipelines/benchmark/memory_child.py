"""What training holds, taken apart in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mettle_cache.devices import prepare_process
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, call_in_child, counting_saved, serve
from mettle_cache.pipelines.benchmark.heads import bench_recipe, load_libraries, store_run, training_batches
from mettle_cache.pipelines.benchmark.step_child import token_tensors
from mettle_cache.pipelines.train.run import Run
from mettle_cache.store.reading.token_store import TokenStore

MODULE = "mettle_cache.pipelines.benchmark.memory_child"


@dataclass(frozen=True, kw_only=True)
class MemoryRequest:
    """``steps`` steps with ``batch`` clips each; with none, the store is only read."""

    store: str
    batch: int
    steps: int
    device: str
    tiny: bool


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Bytes.

    ``heads``, ``gradients``, ``moments`` (Adam's), ``codes`` (of one batch) and ``saved`` (for the backward pass) are
    counted tensor by tensor. ``peak`` is the most that was held above the start at once, in what ``memory_of`` says.
    ``libraries`` is what their code took before the start.
    """

    heads: int
    gradients: int
    moments: int
    codes: int
    saved: int
    peak: int
    libraries: int
    memory_of: str


def measure_memory(request: MemoryRequest) -> Breakdown:
    """Do what ``request`` says in a new process. Raises RunError where it dies."""
    return Breakdown(**call_in_child(MODULE, asdict(request)))


def _work(request: dict[str, Any]) -> dict[str, object]:
    prepare_process()
    wanted = MemoryRequest(**request)
    device = torch.device(wanted.device)
    before = MemoryMeter(device)
    if wanted.steps:
        load_libraries(device, "absorbed")
    libraries = before.now
    meter = MemoryMeter(device)
    with TokenStore.open(Path(wanted.store)) as store:
        parts = _train(store, wanted, device) if wanted.steps else _read(store, wanted)
    return {**parts, "libraries": libraries, "peak": meter.peak, "memory_of": meter.kind}


def _read(store: TokenStore, wanted: MemoryRequest) -> dict[str, object]:
    """The ring of batches alone, on the host, over twice the store."""
    count = -(-2 * len(store.clips) // wanted.batch)
    codes = 0
    for batch in training_batches(store, store.layers, wanted.batch, count, torch.device("cpu")):
        codes = max(codes, batch.tokens.nbytes)
    return {"heads": 0, "gradients": 0, "moments": 0, "codes": codes, "saved": 0}


def _train(store: TokenStore, wanted: MemoryRequest, device: torch.device) -> dict[str, object]:
    run = store_run(store, bench_recipe(tiny=wanted.tiny), device=device)
    gradients = _GradientCounter(run)
    codes = saved_bytes = 0
    batches = training_batches(store, run.task.layers, wanted.batch, wanted.steps, device)
    for index, batch in enumerate(batches):
        given = [*run.model.parameters(), *run.model.buffers(), *token_tensors(batch.tokens)]
        with counting_saved(given) as saved:
            run.step(batch, epoch=0, index=index)
        codes, saved_bytes = max(codes, batch.tokens.nbytes), max(saved_bytes, saved.nbytes)
        del given
    moments = [value for slots in run.optimizer.state.values() for value in slots.values() if value.ndim]
    return {
        "heads": _nbytes(run.model.parameters()),
        "gradients": gradients.nbytes,
        "moments": _nbytes(moments),
        "codes": codes,
        "saved": saved_bytes,
    }


class _GradientCounter:
    """Counts the gradients that a backward pass leaves, each parameter's once."""

    def __init__(self, run: Run) -> None:
        self._sizes: dict[int, int] = {}
        for parameter in run.model.parameters():
            parameter.register_post_accumulate_grad_hook(self._count)

    @property
    def nbytes(self) -> int:
        return sum(self._sizes.values())

    def _count(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._sizes[id(parameter)] = parameter.grad.nbytes


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == "__main__":
    serve(_work)
