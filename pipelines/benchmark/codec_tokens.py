"""Where the codec's bench takes tokens from: a stated spectrum, or a store in float16.

Shapes: T frames, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_layers, bench_static
from mettle_cache.pipelines.benchmark.spectral import spectral_tokens
from mettle_cache.samples import training_clips
from mettle_cache.store.format.codecs import NO_STATIC, StaticArrays, get_codec
from mettle_cache.store.reading.token_store import TokenStore

_SEED = 2
# frames of a clip that errors are measured on
_FRAMES = 4


@dataclass(frozen=True)
class SpectralTokens:
    """Tokens of a stated spectrum; the first block of each stage stands for its stage."""

    tiny: bool
    clips: int
    what: str = "tokens of a stated spectrum, one block of each stage"
    segments: int = SEGMENTS

    @cached_property
    def all_layers(self) -> tuple[LayerSpec, ...]:
        return bench_layers(tiny=self.tiny)

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        return tuple(members[0] for members in group_by_array(self.all_layers).values())

    def blocks(self, layer: LayerSpec) -> int:
        return len(group_by_array(self.all_layers)[layer.array])

    def static(self, codec: str, layers: tuple[LayerSpec, ...]) -> StaticArrays:
        return bench_static(layers, codec)

    def held_out(self, layer: LayerSpec) -> Iterator[Tensor]:
        """Frames ``[T, N, D]``, clip by clip; the same every time."""
        generator = torch.Generator().manual_seed(_SEED)
        for _ in range(self.clips):
            yield spectral_tokens(layer, _FRAMES, generator)


@dataclass(frozen=True)
class StoreTokens:
    """A store's tokens: a pilot on clips of training samples, errors on ``test``."""

    store: TokenStore
    train: tuple[int, ...]
    test: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, *, clips: int) -> StoreTokens:
        """Raises UsageError for a store that is not in float16, or whose clips are all for training."""
        store = TokenStore.open(path)
        if store.codec != "float16":
            raise UsageError(
                f"{path} is in {store.codec}; errors are measured against tokens in float16",
                hint="extract some clips with --codec float16",
            )
        there = [place for place, clip in enumerate(store.clips) if clip not in store.failed]
        training = set(training_clips(store.clips, store.samples))
        train, test = (tuple(place for place in there if (place in training) is used) for used in (True, False))
        if not train or not test:
            raise UsageError(f"{path} needs clips of training samples, for the pilot, and others, to measure on")
        step = max(1, len(test) // clips)
        return cls(store, train, test[::step][:clips])

    @property
    def what(self) -> str:
        return f"the tokens of a store of {self.store.dataset}, {len(self.test)} clips that no pilot saw"

    @property
    def segments(self) -> int:
        return self.store.segments

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        return tuple(replace(layer, cell=1) for layer in self.store.layers)

    all_layers = layers

    def blocks(self, layer: LayerSpec) -> int:
        return 1

    def static(self, codec: str, layers: Sequence[LayerSpec]) -> StaticArrays:
        pilot = get_codec(codec).pilot(layers)
        if pilot is None:
            return NO_STATIC
        shown = 0
        for place, frames in pilot.choose([self.store.clips[clip] for clip in self.train], self.segments):
            if shown >= pilot.wanted:
                break
            batch = self.store.read([self.train[place]]).layers
            pilot.add({name: tokens.floats()[0][list(frames)] for name, tokens in batch.items()})
            shown += len(frames)
        return pilot.finish()

    def held_out(self, layer: LayerSpec) -> Iterator[Tensor]:
        """Frames ``[T, N, D]`` of each clip, spread over it."""
        step = -(-self.segments // _FRAMES)
        for clip in self.test:
            yield self.store.read([clip], [layer.name]).layers[layer.name].floats()[0, ::step]
