"""Cosine maps of the tokens that a run distils from its layers, one by one, and the weights that fuse them.

Shapes: B samples, T segments, L layers of a modality, K tokens of each, d channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.methods.lcd import LCD
from mettle_cache.methods.molt_fusion import cosines
from mettle_cache.methods.protocol import layers_of
from mettle_cache.pipelines.analysis.layer_tokens import layer_wise_method
from mettle_cache.pipelines.figures.cosine_map import CosineMap
from mettle_cache.pipelines.figures.fusion_weights import FusionWeights
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.tasks.model import AudioVisualModel
from mettle_cache.tokens import LayerTokens

SAMPLES = 32


@torch.no_grad()
def run_cosine_maps(group: RunGroup, number: int) -> list[CosineMap]:
    """One map a modality, the mean over the segments of at most 32 samples that lie evenly over the split.

    Raises
    ------
    UsageError
        The method has no tokens of several layers.
    """
    trained = group.runs[number]
    sums: dict[str, NDArray[np.float64]] = {}
    segments = 0
    for tokens in _read(group, trained):
        for name, tensor in separate_tokens(trained, tokens).items():
            found = cosines(tensor.flatten(0, 1).double())
            sums[name] = sums.get(name, 0) + found.sum(0).cpu().numpy()
        segments += len(found)
    return [
        CosineMap(
            title=name,
            names=token_names(trained, name, len(sums[name])),
            cosines=sums[name] / segments,
        )
        for name in MODALITIES
    ]


@torch.no_grad()
def run_fusion_weights(group: RunGroup, number: int) -> list[FusionWeights]:
    """Each layer's weight in each segment of the same samples, the mean over its K tokens.

    Raises
    ------
    UsageError
        The method does not weigh its layers.
    """
    trained = group.runs[number]
    method = layer_wise_method(trained.run.model)
    if method is None:
        raise UsageError(f"{trained.label}: the method gives its layers no weights")
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in MODALITIES}
    for tokens in _read(group, trained):
        for name, weights in method.fusion_weights(method.layer_tokens(tokens)).items():
            parts[name].append(weights.mean(-1).flatten(0, 1).double().cpu().numpy())
    return [
        FusionWeights(
            title=name,
            names=tuple(layer.name.split("/")[1] for layer in layers_of(method.layers, name)),
            weights=np.concatenate(found),
        )
        for name, found in parts.items()
    ]


def separate_tokens(trained: TrainedRun, tokens: Mapping[str, LayerTokens]) -> dict[str, Tensor]:
    """The tokens of all layers one by one, ``[B, T, L K, d]`` by modality.

    Raises
    ------
    UsageError
        The method has no tokens of several layers.
    """
    model = trained.run.model
    if method := layer_wise_method(model):
        return {name: layered.flatten(2, 3) for name, layered in method.layer_tokens(tokens).items()}
    if isinstance(model, AudioVisualModel):
        lcds = {name: getattr(model, name, None) for name in MODALITIES}
        if all(isinstance(lcd, LCD) and lcd.count > 1 for lcd in lcds.values()):
            return {name: cast(LCD, lcd).separate(tokens) for name, lcd in lcds.items()}
    raise UsageError(f"{trained.label}: there are no tokens of several layers")


def token_names(trained: TrainedRun, modality: str, count: int) -> tuple[str, ...]:
    """The layer of each of the ``count`` tokens that :func:`separate_tokens` gives."""
    if method := layer_wise_method(trained.run.model):
        layers = layers_of(method.layers, modality)
        return tuple(layer.name.split("/")[1] for layer in layers for _ in range(count // len(layers)))
    distillers = cast(LCD, getattr(trained.run.model, modality)).distillers.items()
    return tuple(name for name, one in distillers for _ in range(cast(LayerDistiller, one).count))


def _read(group: RunGroup, trained: TrainedRun) -> Iterator[Mapping[str, LayerTokens]]:
    """Tokens of batches of samples."""
    split = group.split
    rows = [split.rows[place] for place in np.unique(np.linspace(0, len(split) - 1, SAMPLES).astype(int))]
    return (batch.tokens.layers for batch in trained.batches(rows, split))
