"""Batches as a trainer without a cache makes them: frozen backbones in every step, on inputs that are ready.

Shapes: B samples, T frames of a sample (all segments of its clips), N tokens, D channels.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

import torch

from mettle_cache.backbones import Backbone
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.tasks.protocol import StepInputs
from mettle_cache.tokens import FLOATS, LayerTokens, TokenBatch


class OnlineSource:
    """Random inputs through frozen backbones, without a graph.

    ``seconds`` are those of the forward passes. ``copying`` are those of copying tokens out of inference mode; they are
    not counted, because such a trainer would not copy.

    Parameters
    ----------
    segments
        T.
    names
        The layers that are read, by name. None: all.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        *,
        segments: int,
        device: torch.device,
        names: Collection[str] | None = None,
    ) -> None:
        self._backbones = tuple(backbones)
        self._segments = segments
        self._device = device
        offered = tuple(layer for backbone in backbones for layer in backbone.layers)
        self.layers = tuple(layer for layer in offered if names is None or layer.name in names)
        self.seconds = self.copying = 0.0

    def batches(self, samples: int, count: int) -> Iterator[SampleBatch]:
        """``count`` batches of the same ``samples`` samples, with new random inputs each."""
        rows = list(range(samples))
        for _ in range(count):
            yield SampleBatch(rows, TokenBatch(self.tokens(samples), tuple(rows)), StepInputs())

    def tokens(self, samples: int) -> dict[str, LayerTokens]:
        """Tokens ``[B, T, N, D]`` of random inputs, by layer name."""
        layers: dict[str, LayerTokens] = {}
        for backbone in self._backbones:
            layers |= self._tokens(backbone, samples)
        return layers

    def _tokens(self, backbone: Backbone, samples: int) -> dict[str, LayerTokens]:
        inputs = torch.randn(samples * self._segments, *backbone.segment_shape, device=self._device)
        started = now(self._device)
        blocks = backbone.forward_tokens(inputs)
        computed = now(self._device)
        layers = {}
        for layer in self.layers:
            if layer.name in blocks:
                tokens = blocks.pop(layer.name).clone()
                layers[layer.name] = LayerTokens(tokens.unflatten(0, (samples, self._segments)), FLOATS)
        self.seconds += computed - started
        self.copying += now(self._device) - computed
        return layers


def now(device: torch.device) -> float:
    """The time, read when everything that was started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
