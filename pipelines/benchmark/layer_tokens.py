"""The layer tables of Swin-V2-L and HTS-AT, and plausible tokens for them, without a backbone.

The tokens have a stated spectrum (:mod:`mettle_cache.pipelines.benchmark.spectral`) and are encoded by the real codecs.
A codec's pilot looks at one block of each stage, because blocks of a stage are alike here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from mettle_cache.backbones import layer_table
from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.pipelines.benchmark.spectral import spectral_tokens
from mettle_cache.store.format.codecs import NO_STATIC, StaticArrays, encode_layers, get_codec
from mettle_cache.tokens import LayerTokens

SEGMENTS = 10
# frames that a pilot looks at: so many rows, tokens or cells of them, for each of a stage's components
_ROWS_A_COMPONENT, _LEAST_FRAMES, _MOST_FRAMES = 6, 8, 200
_PILOT_SEED = 1
_TINY_STAGES = (
    ("visual", 2, (4, 4), 16),
    ("visual", 3, (2, 2), 32),
    ("audio", 2, (4, 2), 16),
    ("audio", 1, (2, 2), 32),
)


def bench_layers(*, tiny: bool = False) -> tuple[LayerSpec, ...]:
    """All blocks of Swin-V2-L at 192 pixels (24) and HTS-AT (12); ``tiny``: eight layers of toy size."""
    if not tiny:
        return (*layer_table("swinv2_l", "visual"), *layer_table("htsat", "audio"))
    layers: list[LayerSpec] = []
    for modality, blocks, grid, width in _TINY_STAGES:
        stage = 1 + len({layer.stage for layer in layers if layer.modality == modality})
        layers += [
            LayerSpec(modality=modality, stage=stage, block=block, grid=grid, tokens=grid[0] * grid[1], width=width)
            for block in range(1, blocks + 1)
        ]
    return tuple(layers)


def bench_clip(layers: Sequence[LayerSpec], codec: str, *, seed: int = 0) -> dict[str, LayerTokens]:
    """One clip's codes by layer, ``[T, N, *]``."""
    generator = torch.Generator().manual_seed(seed)
    static = bench_static(tuple(layers), codec)
    encoded: dict[str, LayerTokens] = {}
    for layer in layers:
        x = spectral_tokens(layer, SEGMENTS, generator)
        encoded |= encode_layers({layer.name: x}, get_codec(codec), [layer], static)
    return encoded


@lru_cache(maxsize=4)
def bench_static(layers: tuple[LayerSpec, ...], codec: str) -> StaticArrays:
    """The codec's static arrays from a pilot on frames of other clips; none for a codec without."""
    stages = group_by_array(layers)
    pilot = get_codec(codec).pilot([members[0] for members in stages.values()])
    if pilot is None:
        return NO_STATIC
    generator = torch.Generator().manual_seed(_PILOT_SEED)
    for first, *_ in stages.values():
        wanted = math.ceil(_ROWS_A_COMPONENT * first.width * first.cell**4 / first.tokens)
        for _ in range(max(_LEAST_FRAMES, min(wanted, _MOST_FRAMES))):
            pilot.add({first.name: spectral_tokens(first, 1, generator)})
    arrays = pilot.finish()
    return {layer.name: arrays[members[0].name] for members in stages.values() for layer in members}


def reorder_tokens(clip: dict[str, LayerTokens], by: int) -> dict[str, LayerTokens]:
    """The same codes in another order of tokens within each segment: what belongs to channels and frames stays."""
    return {name: replace(tokens, codes=tokens.codes.roll(by, dims=-2)) for name, tokens in clip.items()}
