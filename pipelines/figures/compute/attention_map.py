"""Attention weights of a run's LCD on frames of the split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.pipelines.figures.attention_map import AttentionRow
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.samples import clips_of_samples
from mettle_cache.tokens import LayerTokens

EXAMPLES = 3
MOST_LAYERS = 4


def run_attention(group: RunGroup, number: int) -> tuple[list[AttentionRow], tuple[str, ...]]:
    """Attention on one frame each of the first run's best, median and worst sample, and the names of the layers.

    The frame is the first of the sample's first clip, for which there may be a picture. Layers are the last of each
    stage of the visual backbone, at most four; a layer's weights are the mean over its meta-tokens.

    Raises
    ------
    UsageError
        The run has no LCD with attention on visual layers.
    """
    trained = group.runs[number]
    distillers = attending_distillers(trained)
    if not distillers:
        raise UsageError(f"{trained.label}: no visual layer is distilled by attention")
    samples = group.store.samples
    clips = clips_of_samples(samples)
    rows = []
    for place in group.examples(EXAMPLES):
        clip = clips[group.split.rows[place]][0]
        tokens = group.store.read([clip], [one.layer.name for one in distillers]).to(trained.run.device).layers
        maps = tuple(frame_attention(one, tokens[one.layer.name][0][:1]) for one in distillers)
        rows.append(AttentionRow(title=str(clip), picture=group.frames(clip), maps=maps))
    return rows, tuple(one.layer.name.split("/")[1] for one in distillers)


def attending_distillers(trained: TrainedRun) -> list[LayerDistiller]:
    """The distillers with attention of the last visual layers of the stages that the head reads."""
    found: dict[int, LayerDistiller] = {}
    for module in trained.run.model.modules():
        attends = isinstance(module, LayerDistiller) and module.options.task_specific
        if isinstance(module, LayerDistiller) and attends and module.layer.modality == "visual":
            found[module.layer.stage] = module
    return [found[stage] for stage in sorted(found)][-MOST_LAYERS:]


@torch.no_grad()
def frame_attention(distiller: LayerDistiller, tokens: LayerTokens) -> NDArray[np.float64]:
    """Weights ``[rows, columns]`` over one frame's tokens ``[1, N, D]``, mean over heads and meta-tokens."""
    weights = distiller.attention_weights(tokens)[0].mean((0, 1))
    return on_grid(weights.double().cpu().numpy(), distiller.layer)


def on_grid(weights: NDArray[np.float64], layer: LayerSpec) -> NDArray[np.float64]:
    """Weights ``[N]`` as the grid's ``[rows, columns]``; class tokens, which come first, have no place on it."""
    rows, columns = layer.grid
    return weights[len(weights) - rows * columns :].reshape(rows, columns)
