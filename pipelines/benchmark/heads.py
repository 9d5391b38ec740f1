"""Heads for benches: the paper's best setting on bench stores, through the run that training uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch

from mettle_cache.backbones import Backbone, create_backbone, shared_audio
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.fullsize import CATEGORIES, bench_samples
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_clip, bench_layers
from mettle_cache.pipelines.benchmark.stock_attention import use_stock_attention
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleBatch, SampleLoader, read_split
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tasks.avel.task import AvelTask
from mettle_cache.tasks.protocol import StepInputs
from mettle_cache.tokens import TokenBatch

RECIPE = "ave-swin-htsat"
TINY_BATCH = 4
# what the tiny stores' layers stand for; one small ViT for both modalities
TINY_BACKBONE = "test_vit@64"
BENCH_BACKBONES = ("swinv2_l", "htsat")


def bench_recipe(*, tiny: bool) -> Recipe:
    """The paper's best row; ``tiny`` takes smaller batches."""
    return load_recipe(RECIPE, [f"train.batch_size={TINY_BATCH}"] if tiny else [])


def store_run(store: TokenStore, recipe: Recipe, *, seed: int = 0, device: torch.device) -> Run:
    """A head on a store."""
    return Run(bind_task(recipe, store), recipe.train, seed=seed, device=device)


def layer_run(layers: Sequence[LayerSpec], recipe: Recipe, *, clips: int, device: torch.device) -> Run:
    """A head on layers that come from a backbone, with the labels of ``clips`` clips."""
    task = AvelTask(
        layers,
        samples=bench_samples(clips),
        vocabulary={"categories": CATEGORIES},
        segments=SEGMENTS,
        method=recipe.method_choice(),
        options=recipe.head,
    )
    return Run(task, recipe.train, seed=0, device=device)


def training_batches(
    store: TokenStore, layers: Sequence[LayerSpec], batch: int, count: int, device: torch.device
) -> Iterator[SampleBatch]:
    """``count`` batches of the train split, from its beginning again when it is over."""
    rows = list(islice(cycle(read_split(store, "train").rows), batch * count))
    return SampleLoader(store, layers, device=device).batches(rows, batch)


def bench_backbones(*, tiny: bool, device: torch.device) -> tuple[Backbone, Backbone]:
    """The visual and the audio backbone of the bench stores, with random weights."""
    if tiny:
        visual = create_backbone(TINY_BACKBONE, weights="random")
        return visual.to(device), shared_audio(visual)
    visual, audio = (create_backbone(name, weights="random") for name in BENCH_BACKBONES)
    return visual.to(device), audio.to(device)


def load_libraries(device: torch.device, attention: str) -> None:
    """One step on toy shapes: afterwards all code that training runs is loaded, and what compiles is compiled.

    So a measurement that follows is of the work, not of loading libraries.
    """
    layers = bench_layers(tiny=True)
    run = layer_run(layers, bench_recipe(tiny=True), clips=1, device=device)
    if attention == "stock":
        use_stock_attention(run.model)
    clip = bench_clip(layers, "int8")
    tokens = {name: layer.map(lambda part: part[None]).to(device) for name, layer in clip.items()}
    run.step(SampleBatch([0], TokenBatch(tokens, (0,)), StepInputs()), epoch=0, index=0)
