"""Tokens in half precision beside float32: how fast, how far off, and whether encoding and copying stop the backbones.

Swin-V2-L and HTS-AT with random weights: the times are theirs, the errors are of their shapes and depths, not of what
they learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mettle_cache.backbones import Backbone
from mettle_cache.backbones.protocol import HasPrecisions
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.heads import bench_backbones
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS
from mettle_cache.pipelines.extract.encoding import encode_group
from mettle_cache.store.format.codecs import NO_STATIC, get_codec

CODEC = "int8"
EXACT, HALF = "float32", ("bfloat16", "float16")
CLIPS, TINY_CLIPS = 4, 1
# of the bare backbones' rate, what is left with encoding and the copy to the host
GOAL = 0.9

Tokens = dict[str, Tensor]


def run(setting: Setting) -> Iterator[Finding]:
    """Rates in float32 and in half precision, errors by stage, and the rate with encoding."""
    backbones = bench_backbones(tiny=setting.tiny, device=setting.device)
    clips = TINY_CLIPS if setting.tiny else CLIPS
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(clips * SEGMENTS, *backbone.segment_shape, generator=generator).to(setting.device)
        for backbone in backbones
    ]
    exact = forward(backbones, inputs)
    alone = clips / setting.time(lambda: forward(backbones, inputs), repeats=3)
    yield Finding(what=f"bare backbones in {EXACT}", value=alone, unit="clips/s")
    for name in HALF:
        half = [one.at_precision(name) for one in backbones if isinstance(one, HasPrecisions)]
        yield from errors(name, exact, forward(half, inputs), backbones)
        yield from rates(name, half, inputs, clips, alone, setting)


def forward(backbones: Sequence[Backbone], inputs: Sequence[Tensor]) -> Tokens:
    """Every layer's tokens ``[F, N, D]``."""
    tokens: Tokens = {}
    for backbone, x in zip(backbones, inputs, strict=True):
        tokens |= backbone.forward_tokens(x)
    return tokens


def rates(
    name: str, backbones: Sequence[Backbone], inputs: Sequence[Tensor], clips: int, alone: float, setting: Setting
) -> Iterator[Finding]:
    """Clips a second of the backbones, and with codes in host memory."""
    layers, codec, on_gpu = _layers(backbones), get_codec(CODEC), setting.device.type != "cpu"

    def encode() -> None:
        # a group of one clip, as long as all of them
        encode_group([(0, forward(backbones, inputs))], codec, layers, NO_STATIC, checks_later=on_gpu)

    rate = clips / setting.time(lambda: forward(backbones, inputs), repeats=3)
    yield Finding(what=f"bare backbones in {name}", value=rate, unit="clips/s", note=f"{rate / alone:.1f} x {EXACT}")
    encoded = clips / setting.time(encode, repeats=3)
    yield Finding(
        what=f"with {CODEC} codes in host memory, {name}",
        value=encoded,
        unit="clips/s",
        limit=rate,
        limit_is="the bare backbones",
        share=encoded / rate,
        least=None if setting.tiny else GOAL,
        note="one after the other; an extraction overlaps them",
    )


def errors(name: str, exact: Tokens, found: Tokens, backbones: Sequence[Backbone]) -> Iterator[Finding]:
    """The relative error of each stage's worst layer; not finite is wrong."""
    stages: dict[str, list[float]] = {}
    for layer in _layers(backbones):
        one, half = exact[layer.name], found[layer.name]
        error = float((half - one).square().mean().sqrt() / one.square().mean().sqrt())
        stages.setdefault(layer.array, []).append(error)
    for stage, values in stages.items():
        worst = max(values)
        finite = all(value < float("inf") for value in values)
        yield Finding(what=f"{name} {stage}, worst layer's error", value=worst, unit="relative", passed=finite)


def _layers(backbones: Sequence[Backbone]) -> list[LayerSpec]:
    return [layer for backbone in backbones for layer in backbone.layers]
