"""The kinds of figures: what each computes from a group of runs and draws, and which tasks have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from matplotlib.figure import Figure
from pydantic import Field

from mettle_cache.errors import UsageError
from mettle_cache.options import Options
from mettle_cache.pipelines.analysis.layer_tokens import layer_wise_method
from mettle_cache.pipelines.figures.attention_map import draw_attention_maps
from mettle_cache.pipelines.figures.compute.attention_map import run_attention
from mettle_cache.pipelines.figures.compute.cosine_map import run_cosine_maps, run_fusion_weights
from mettle_cache.pipelines.figures.compute.layer_similarity import store_similarities
from mettle_cache.pipelines.figures.compute.loss_landscape import LandscapeOptions, run_landscape
from mettle_cache.pipelines.figures.compute.mask_grid import group_mask_columns
from mettle_cache.pipelines.figures.compute.meta_token_map import MapOptions, run_maps
from mettle_cache.pipelines.figures.compute.timelines import group_timelines
from mettle_cache.pipelines.figures.cosine_map import draw_cosine_maps
from mettle_cache.pipelines.figures.fusion_weights import draw_fusion_weights
from mettle_cache.pipelines.figures.layer_similarity import draw_layer_similarity
from mettle_cache.pipelines.figures.loss_landscape import draw_loss_landscapes
from mettle_cache.pipelines.figures.mask_grid import draw_mask_grid
from mettle_cache.pipelines.figures.meta_token_map import draw_meta_token_maps
from mettle_cache.pipelines.figures.timelines import draw_timelines
from mettle_cache.pipelines.figures.trained import RunGroup

LEARNING_CURVES = "learning-curves"
"""The kind that needs the runs' folders alone, not their store."""
MOST_MAPS, MOST_ROWS = 6, 4
"""Runs of one figure, as maps and as rows: more would be too small to read."""

Drawn = Iterator[tuple[str, Figure]]


@dataclass(frozen=True)
class FigureKind:
    """``draw`` gives figures of a group of runs, each with a run's label, or empty for one of all runs.

    It raises UsageError where the runs have no such figure. ``tasks`` are those that have it; None for all.
    """

    draw: Callable[[RunGroup, FigureOptions], Drawn]
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class FigureOptions(Options):
    """``split`` is what predictions, maps and attention are of; ``only`` names kinds of figures, all where empty."""

    split: str = "test"
    only: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    landscape: LandscapeOptions = field(default_factory=LandscapeOptions)
    maps: MapOptions = field(default_factory=MapOptions)

    def problems(self) -> Sequence[str]:
        known = [LEARNING_CURVES, *KINDS]
        wrong = [name for name in self.only if name not in known]
        return [f"only: there is no figure '{name}'; there are {', '.join(known)}" for name in wrong]

    def wants(self, kind: str) -> bool:
        return not self.only or kind in self.only


def _landscapes(group: RunGroup, options: FigureOptions) -> Drawn:
    runs = group.first(MOST_MAPS, "loss-landscape")
    yield "", draw_loss_landscapes([run_landscape(run, options.landscape, group.progress) for run in runs])


def _meta_tokens(group: RunGroup, options: FigureOptions) -> Drawn:
    for number, trained in enumerate(group.runs):
        maps, categories = run_maps(group, number, options.maps)
        yield trained.label, draw_meta_token_maps(maps, categories, perplexity=options.maps.perplexity)


def _timelines(group: RunGroup, options: FigureOptions) -> Drawn:
    runs = group.first(MOST_ROWS, "timelines")
    yield (
        "",
        draw_timelines(
            group_timelines(group, len(runs)),
            [run.label for run in runs],
            rule=f"clips: {runs[0].label}'s by {group.task.metric.replace('_', ' ')}",
        ),
    )


def _masks(group: RunGroup, options: FigureOptions) -> Drawn:
    runs = group.first(MOST_ROWS, "masks")
    yield "", draw_mask_grid(group_mask_columns(group, len(runs)), [run.label for run in runs])


def _attention(group: RunGroup, options: FigureOptions) -> Drawn:
    for number, trained in enumerate(group.runs):
        try:
            rows, layers = run_attention(group, number)
        except UsageError as error:
            group.progress.note(f"no attention: {error.message}")
        else:
            yield trained.label, draw_attention_maps(rows, layers)


def _cosines(group: RunGroup, options: FigureOptions) -> Drawn:
    for number, trained in enumerate(group.runs):
        try:
            maps = run_cosine_maps(group, number)
        except UsageError as error:
            group.progress.note(f"no cosines: {error.message}")
        else:
            yield trained.label, draw_cosine_maps(maps)


def _fusion(group: RunGroup, options: FigureOptions) -> Drawn:
    for number, trained in enumerate(group.runs):
        # most methods have no weights, and that needs no note
        if layer_wise_method(trained.run.model):
            yield trained.label, draw_fusion_weights(run_fusion_weights(group, number))


def _layer_similarity(group: RunGroup, options: FigureOptions) -> Drawn:
    yield "", draw_layer_similarity(store_similarities(group.store, group.progress))


EVENT_TASKS = ("avel", "avvp")

KINDS = {
    "loss-landscape": FigureKind(_landscapes),
    "meta-tokens": FigureKind(_meta_tokens, EVENT_TASKS),
    "timelines": FigureKind(_timelines, EVENT_TASKS),
    "masks": FigureKind(_masks, ("avs",)),
    "attention": FigureKind(_attention),
    "cosines": FigureKind(_cosines, EVENT_TASKS),
    "fusion": FigureKind(_fusion, EVENT_TASKS),
    "layer-similarity": FigureKind(_layer_similarity),
}
