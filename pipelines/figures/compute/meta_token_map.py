"""Maps of a split's segments by t-SNE: of a run's meta-tokens, and of the mean tokens that it was distilled from.

Shapes: S segments, D channels, R samples, T segments a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.protocol import layers_of
from mettle_cache.options import Options
from mettle_cache.pipelines.figures.compute.events import BOTH, read_events, segment_classes
from mettle_cache.pipelines.figures.meta_token_map import BACKGROUND, SegmentMap
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.tasks.model import AudioVisualModel

Vectors = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MapOptions(Options):
    """``segments`` bounds the points of a map, whole samples chosen by ``seed``, which also starts t-SNE."""

    segments: Annotated[int, Field(ge=20, le=20_000)] = 1500
    perplexity: Annotated[float, Field(ge=1, le=1000)] = 30.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


def run_maps(group: RunGroup, number: int, options: MapOptions) -> tuple[list[SegmentMap], tuple[str, ...]]:
    """The maps of a run by its number in the group: frozen and distilled, of both modalities; and the categories.

    A segment's class is what is annotated in it; AVVP's segments of several classes in a modality are left out.

    Raises
    ------
    UsageError
        The task does not find events in segments, or there are too few of them.
    """
    trained, rows = group.runs[number], group.split.rows
    model = trained.run.model
    if not isinstance(model, AudioVisualModel):
        raise UsageError("the head has no vector a segment and modality")
    events = read_events(trained.run.task.prediction_table(group.predictions(number), rows))
    segments = next(iter(events.annotated.values())).shape[-1]
    drawn = np.random.default_rng(options.seed).permutation(len(rows))[: max(options.segments // segments, 1)]
    places = np.sort(drawn)
    vectors = segment_vectors(trained, [rows[place] for place in places], group)
    maps = []
    for modality in MODALITIES:
        classes = segment_classes(events.annotated[BOTH if BOTH in events.annotated else modality])[places].ravel()
        for kind, label in (("frozen", "frozen tokens, mean"), ("distilled", "meta-tokens")):
            title = f"{modality}: {label}"
            maps.append(segment_map(title, vectors[kind, modality], classes, options))
    return maps, events.categories


@torch.no_grad()
def segment_vectors(trained: TrainedRun, rows: list[int], group: RunGroup) -> dict[tuple[str, str], Vectors]:
    """Vectors ``[R T, D]`` of samples' segments by kind and modality.

    Kinds: ``frozen`` is the mean token of the last layer that the run reads, ``distilled`` what its decoder gets.
    """
    model = trained.run.model
    assert isinstance(model, AudioVisualModel)
    model.eval()
    last = {modality: layers_of(trained.run.task.layers, modality)[-1].name for modality in MODALITIES}
    parts: dict[tuple[str, str], list[Vectors]] = {}
    for batch in trained.batches(rows, group.split):
        tokens = batch.tokens.layers
        meta_tokens = model.distil(tokens)
        for modality in MODALITIES:
            for kind, tensor in (
                ("frozen", mean_token(tokens[last[modality]])),
                ("distilled", getattr(meta_tokens, modality)),
            ):
                vectors = tensor[: len(batch.rows)].flatten(0, 1).double().cpu().numpy()
                parts.setdefault((kind, modality), []).append(vectors)
    return {key: np.concatenate(found) for key, found in parts.items()}


def segment_map(title: str, vectors: Vectors, classes: NDArray[np.int64], options: MapOptions) -> SegmentMap:
    """The t-SNE map of vectors ``[S, D]``, and their silhouette by class; segments of several classes are left out.

    Both see the vectors less their mean and scaled to length 1, so that a layer's common direction and scale count for
    nothing.

    Raises
    ------
    UsageError
        Fewer segments than t-SNE needs.
    """
    kept = classes >= BACKGROUND
    vectors, classes = vectors[kept], classes[kept]
    if len(vectors) <= 3 * options.perplexity:
        raise UsageError(
            f"{len(vectors)} segments are too few for a t-SNE map of perplexity {options.perplexity:g}",
            hint="name a split with more clips",
        )
    directions = vectors - vectors.mean(axis=0)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    points = TSNE(perplexity=options.perplexity, init="pca", random_state=options.seed, n_jobs=1).fit_transform(
        directions
    )
    return SegmentMap(
        title=title,
        points=np.asarray(points, np.float64),
        classes=classes,
        silhouette=silhouette(directions, classes),
    )


def silhouette(directions: Vectors, classes: NDArray[np.int64]) -> float:
    """The mean silhouette of the segments that have a class; NaN where there are fewer than two classes."""
    events = classes != BACKGROUND
    distinct = len(np.unique(classes[events]))
    if not 1 < distinct < events.sum():
        return float("nan")
    return float(silhouette_score(directions[events], classes[events]))
