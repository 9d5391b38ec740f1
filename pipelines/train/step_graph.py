"""Steps of constant shape as a captured CUDA graph: one launch a step instead of thousands.

A graph reads and writes the memory that it was captured on. So a batch is copied into tensors that stay
(:class:`StaticBatch`, once for all heads that share a pass), and each head replays its own graph on them
(:class:`GraphedStep`). The seed and offset of dropout are inputs of a graph: PyTorch sets them from the generator at
each replay, and training seeds that for each step. What has another shape, as the last batch of an epoch may have, runs
as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.tokens import LayerTokens, TokenBatch

WARM_STEPS = 3
"""Steps before the capture: libraries choose their kernels, and the optimiser makes its state."""
# of a loss term of the same step by the same kernels, whose sums may differ in their order
_TOLERANCE = 1e-3

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Records what a function does, without doing it; what it gives does it, and gives the tensor that it gave."""


def capture_on_cuda(step: Callable[[], Tensor]) -> Replay:
    """:data:`Capture` on the current CUDA device. Raises RuntimeError for what a graph cannot hold."""
    graph = torch.cuda.CUDAGraph()
    # a reader's threads may wait for their copies meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = step()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


@dataclass(frozen=True)
class StepTensors:
    """What a step reads beside the weights: the tokens, the model's further inputs, the targets."""

    layers: Mapping[str, LayerTokens]
    inputs: Mapping[str, Tensor]
    targets: Tensor


class Compute(Protocol):
    """A step's work, on tensors of the device alone."""

    def compute_step(self, tensors: StepTensors) -> Tensor:
        """Forward, backward and the optimiser; the loss terms ``[K]``."""

    def compute_terms(self, tensors: StepTensors) -> Tensor:
        """Forward alone."""

    model: nn.Module


class StaticBatch:
    """Tensors that stay, for the batches of one shape: that of the first batch."""

    def __init__(self) -> None:
        self._layers: Mapping[str, LayerTokens] | None = None
        self._tensors: list[Tensor] = []

    def hold(self, batch: SampleBatch) -> SampleBatch:
        """The same batch in these tensors, marked as ``static``; as it is where it has another shape."""
        given = _tensors_of(batch.tokens.layers)
        if self._layers is None:
            self._layers = {name: layer.map(torch.empty_like) for name, layer in batch.tokens.layers.items()}
            self._tensors = _tensors_of(self._layers)
        if _shapes(given) != _shapes(self._tensors) or batch.tokens.layers.keys() != self._layers.keys():
            return batch
        _copy_into(self._tensors, given)
        return replace(batch, tokens=TokenBatch(self._layers, batch.tokens.clips), static=True)


class GraphedStep:
    """The steps of one head: the first ones as they are, those on a static batch from a graph.

    ``note`` is told once where nothing can be captured; then all steps run as they are.
    """

    def __init__(self, compute: Compute, capture: Capture, note: Callable[[str], None]) -> None:
        self._compute = compute
        self._capture = capture
        self._note = note
        self._warm = WARM_STEPS
        self._able = True
        self._key: object = None
        self._tensors: StepTensors | None = None
        self._replay: Replay | None = None

    def __call__(self, tensors: StepTensors, *, static: bool, rate: float) -> Tensor:
        """A step, with the learning rate ``rate``, which a graph holds as a number.

        Raises
        ------
        RunError
            The graph's first loss is another one than that of the step as it is.
        """
        if not (static and self._able):
            return self._compute.compute_step(tensors)
        if self._warm:
            self._warm -= 1
            return self._compute.compute_step(tensors)
        given = [*tensors.inputs.values(), tensors.targets]
        key = (rate, [id(layer.codes) for layer in tensors.layers.values()], _shapes(given))
        if key != self._key:
            return self._first(tensors, key)
        assert self._tensors is not None
        assert self._replay is not None
        _copy_into([*self._tensors.inputs.values(), self._tensors.targets], given)
        return self._replay()

    def _first(self, tensors: StepTensors, key: object) -> Tensor:
        """Capture, and take the first step, which is compared."""
        inputs = {name: tensor.clone() for name, tensor in tensors.inputs.items()}
        self._replay, self._key = None, None
        self._tensors = kept = replace(tensors, inputs=inputs, targets=tensors.targets.clone())
        expected = _terms_without_traces(self._compute, tensors)
        try:
            self._replay = self._capture(lambda: self._compute.compute_step(kept))
        except RuntimeError as error:
            self._able = False
            self._compute.model.zero_grad(set_to_none=True)
            self._note(f"steps are not captured as a graph: {str(error).splitlines()[0]}")
            return self._compute.compute_step(tensors)
        self._key, found = key, self._replay()
        if not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise RunError(
                f"the captured step gives the loss terms {found.tolist()}, and the step itself {expected.tolist()}",
                hint="train with --no-graph, and report it",
            )
        return found


def _terms_without_traces(compute: Compute, tensors: StepTensors) -> Tensor:
    """The loss terms of the step that comes, with the generators and the model's buffers as they were afterwards."""
    buffers = [buffer.clone() for buffer in compute.model.buffers()]
    devices = [tensors.targets.device] if tensors.targets.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        terms = compute.compute_terms(tensors).clone()
    for buffer, before in zip(compute.model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return terms


def _tensors_of(layers: Mapping[str, LayerTokens]) -> list[Tensor]:
    """What of tokens changes from batch to batch."""
    return [tensor for layer in layers.values() for tensor in (layer.codes, *layer.parts.values())]


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _copy_into(places: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    # one call for all, which is few launches
    torch._foreach_copy_(list(places), list(given))
