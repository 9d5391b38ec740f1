"""Several layers at once, on a thread each. (The frames of one layer are spread over threads in cpu/parts.py.)

Layers do not depend on each other. If every step of one layer were spread over all cores, the cores would wait for each
other at the end of each step; with a layer to itself, a core waits only at the very end. The numbers do not depend on
the number of cores, unless there are two or more for each layer: a layer is computed on one core, and outputs are added
in the order of the layers.

Autograd would run the backward pass on one thread. So each layer has a graph of its own, and one function represents
them all in the caller's graph: it takes all parameters, holds what the layers' graphs saved, and runs these graphs at
the same time in its backward pass.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

T = TypeVar("T", "LayerWork", "_LayerGraph")
R = TypeVar("R")


@dataclass(frozen=True)
class LayerWork:
    """What to compute for a layer, its parameters, and its cost relative to the other layers."""

    run: Callable[[], Tensor]
    parameters: tuple[nn.Parameter, ...]
    cost: float


def add_up_layers(works: Sequence[LayerWork], *, side_by_side: bool) -> Tensor:
    """The sum of the outputs of all layers, computed on as many threads as PyTorch uses, or one layer after the other.

    Gradients go to ``parameters`` alone, and can be taken once.
    """
    if not side_by_side or len(works) < 2 or torch.get_num_threads() < 2:
        return functools.reduce(torch.add, (work.run() for work in works))
    parameters = [parameter for work in works for parameter in work.parameters]
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        summed: Tensor = _LayerSum.apply(works, *parameters)
        return summed
    inference = torch.is_inference_mode_enabled()

    def run(work: LayerWork) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return work.run()

    return functools.reduce(torch.add, _side_by_side(run, works))


def run_in_threads(run: Callable[[], None], executor: ThreadPoolExecutor, threads: int) -> None:
    """Call ``run`` in ``threads`` threads at once, and raise what one of them raised.

    It returns when all have ended, because they read memory that the caller may use again.
    """
    futures = [executor.submit(run) for _ in range(threads)]
    wait(futures)
    for future in futures:
        future.result()


class _LayerSum(torch.autograd.Function):
    """See :func:`add_up_layers`."""

    @staticmethod
    def forward(ctx: Any, works: Sequence[LayerWork], *parameters: nn.Parameter) -> Tensor:
        graphs = _side_by_side(_LayerGraph, works)
        ctx.graphs, ctx.counts = graphs, [len(graph.saved) for graph in graphs]
        ctx.save_for_backward(*(tensor for graph in graphs for tensor in graph.saved))
        for graph in graphs:
            graph.saved.clear()
        return functools.reduce(torch.add, (graph.output.detach() for graph in graphs))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        for graph, count in zip(ctx.graphs, ctx.counts, strict=True):
            graph.saved.extend(next(saved) for _ in range(count))
        by_layer = _side_by_side(lambda graph: graph.gradients(d_output), ctx.graphs)
        return None, *(gradient for gradients in by_layer for gradient in gradients)


class _LayerGraph:
    """A layer's output with a graph of its own. ``saved`` are the tensors that the graph keeps, for the caller."""

    def __init__(self, work: LayerWork) -> None:
        self.parameters, self.cost = work.parameters, work.cost
        # the graph holds this list and not this object, which holds the graph
        self.saved: list[Tensor] = []
        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(_keeping(self.saved), self.saved.__getitem__),
        ):
            self.output = work.run()

    def gradients(self, d_output: Tensor) -> list[Tensor | None]:
        """The gradients of the parameters, None for one that needs none."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        gradients = iter(torch.autograd.grad(self.output, trained, d_output, allow_unused=True) if trained else ())
        self.saved.clear()
        return [next(gradients) if parameter.requires_grad else None for parameter in self.parameters]


def _keeping(saved: list[Tensor]) -> Callable[[Tensor], int]:
    def keep(tensor: Tensor) -> int:
        saved.append(tensor)
        return len(saved) - 1

    return keep


def _side_by_side(run: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results of ``run`` in the order of the items. The most expensive start first, so that cheap ones end last."""
    results: dict[int, R] = {}
    queue = iter(sorted(range(len(items)), key=lambda number: -items[number].cost))

    def take_layers() -> None:
        for number in queue:
            results[number] = run(items[number])

    threads = torch.get_num_threads()
    workers = min(threads, len(items))
    run_in_threads(take_layers, _layer_executor(workers, threads // workers), workers)
    return [results[number] for number in range(len(items))]


@functools.cache
def _layer_executor(workers: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads, in each of which PyTorch uses ``threads`` threads."""
    all_there, before = threading.Barrier(workers), torch.get_num_threads()

    def start() -> None:
        # a thread takes the number of the process when it first asks, also one that was set before in the thread
        torch.get_num_threads()
        torch.set_num_threads(threads)

    executor = ThreadPoolExecutor(workers, "mettle-layer", initializer=start)
    wait([executor.submit(all_there.wait) for _ in range(workers)])
    # workers set the process's number too, which is for those that come later
    torch.set_num_threads(before)
    return executor
