"""Maps of segments: the vectors behind them, and the silhouette by its definition."""

import numpy as np
import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.figures.compute.meta_token_map import (
    MapOptions,
    run_maps,
    segment_map,
    segment_vectors,
    silhouette,
)
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent

RNG = np.random.default_rng(2)
FEW = MapOptions(perplexity=5.0, segments=60)


def test_the_silhouette_is_that_of_segments_with_a_class():
    vectors, classes = RNG.normal(size=(30, 4)), RNG.integers(-1, 3, 30)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    values = []
    for place, own in enumerate(classes):
        if own >= 0:
            same = (classes == own) & (np.arange(30) != place)
            inside = distances[place, same].mean()
            other = min(distances[place, classes == number].mean() for number in range(3) if number != own)
            values.append((other - inside) / max(other, inside))
    assert silhouette(vectors, classes) == pytest.approx(np.mean(values))
    assert np.isnan(silhouette(vectors, np.full(30, -1)))
    assert np.isnan(silhouette(vectors, np.where(np.arange(30) < 5, 1, -1)))


def test_scale_and_common_direction_count_for_nothing():
    vectors, classes = RNG.normal(size=(40, 6)), RNG.integers(-2, 2, 40)
    one = segment_map("a", vectors, classes, FEW)
    moved = segment_map("a", 1000 * (vectors + 7), classes, FEW)
    assert one.silhouette == pytest.approx(moved.silhouette)
    assert len(one.points) == len(one.classes) == (classes > -2).sum()


def test_too_few_segments_are_refused():
    with pytest.raises(UsageError, match=r"12 segments are too few for a t-SNE map of perplexity 5") as error:
        segment_map("a", np.zeros((12, 3)), np.zeros(12, int), FEW)
    assert error.value.hint == "name a split with more clips"


def test_maps_of_a_run(trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "lcd", store=tiny_ave)
    group = RunGroup([trained], "test", None, Silent())
    maps, categories = run_maps(group, 0, FEW)
    assert categories == tuple(tiny_ave.vocabulary["categories"])
    assert [one.title for one in maps] == [
        "visual: frozen tokens, mean",
        "visual: meta-tokens",
        "audio: frozen tokens, mean",
        "audio: meta-tokens",
    ]
    # 6 of the 9 samples, and the same ones in all maps
    assert {len(one.classes) for one in maps} == {60}
    np.testing.assert_array_equal(maps[0].classes, maps[3].classes)
    again, _ = run_maps(group, 0, FEW)
    np.testing.assert_array_equal(again[1].points, maps[1].points)


def test_vectors_are_the_mean_token_and_what_the_decoder_gets(trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "lcd", store=tiny_ave)
    group = RunGroup([trained], "test", None, Silent())
    rows = list(group.split.rows[:2])
    vectors = segment_vectors(trained, rows, group)
    tokens = tiny_ave.read([tiny_ave.samples["clip"][row].as_py() for row in rows]).layers
    mean = tokens["audio/s2b01"].floats(torch.float64).mean(-2).flatten(0, 1)
    np.testing.assert_allclose(vectors["frozen", "audio"], mean, atol=1e-5)
    got = []
    trained.run.model.decoder.register_forward_pre_hook(lambda _, given: got.append(given))
    trained.run.model(tokens)
    np.testing.assert_allclose(vectors["distilled", "visual"], got[0][0].detach().flatten(0, 1), atol=1e-5)
