"""How fast frozen backbones compute here: what ``mettle plan`` expects, and what ``mettle bench`` holds it to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from mettle_cache.backbones import Backbone
from mettle_cache.pipelines.extract.extractor import available_cores, clips_a_batch_on_gpu
from mettle_cache.pipelines.extract.stream import reproducible_passes

# on a CPU: enough for a steady rate, few enough for a second or two of Swin-V2-L on a core
TIMED_SEGMENTS = 2


def seconds_a_clip(backbones: Sequence[Backbone], device: torch.device, segments: int) -> float:
    """Seconds that a clip takes in a steady stream of forward passes, as extraction runs them, from a short trial.

    On a CPU one pass a core, all at once, of :data:`TIMED_SEGMENTS` segments; on a GPU whole batches of clips of
    ``segments`` segments.
    """
    on_cpu = device.type == "cpu"
    lanes = available_cores() if on_cpu else 1
    size = TIMED_SEGMENTS if on_cpu else clips_a_batch_on_gpu(segments) * segments
    total = 0.0
    for backbone in backbones:
        passes = [(torch.zeros(size, *backbone.segment_shape, device=device),)] * lanes
        run_passes([backbone], passes, lanes=lanes, device=device)  # the first round warms up
        total += run_passes([backbone], passes, lanes=lanes, device=device) / (lanes * size)
    return segments * total


def run_passes(
    backbones: Sequence[Backbone], passes: Sequence[Sequence[Tensor]], *, lanes: int, device: torch.device
) -> float:
    """Run forward passes over resident inputs, ``lanes`` at once, and throw their tokens away; returns seconds.

    Each pass holds one input ``[B, *segment_shape]`` for each backbone.
    """

    def forward(inputs: Sequence[Tensor]) -> None:
        with torch.inference_mode():
            for backbone, x in zip(backbones, inputs, strict=True):
                backbone.forward_tokens(x)

    with reproducible_passes(device), ThreadPoolExecutor(lanes) as pool:
        started = time.perf_counter()
        list(pool.map(forward, passes))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started
